"""The web page in a browser without a screen."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.pictures import encoded, picture

SCENES = Path(__file__).parents[2] / "lab" / "held_out"
SCENE, TRUTH = SCENES / "0026.jpg", {"hamburger", "candle", "boat", "airplane"}
WAIT_MS = 30_000
expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A visitor's page, and what it did behind their back."""

    def __init__(self, browser: Browser, url: str, locale: str, width: int) -> None:
        self.elsewhere: list[str] = []
        self.complaints: list[str] = []
        self.context = browser.new_context(locale=locale, viewport={"width": width, "height": 900})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.context.set_default_timeout(WAIT_MS)
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self._look(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self._hear(message.type, message.text, message.location["url"]))
        self.page.goto(url)
        expect(self.page.locator("#run")).to_be_visible()
        expect(self.page.locator("header.head .model").first).to_contain_text("demo")

    def _look(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in ("127.0.0.1", "localhost"):
            self.elsewhere.append(url)

    def _hear(self, kind: str, words: str, url: str) -> None:
        if kind == "error" and not url.endswith("/favicon.ico"):  # browsers ask the server's root for one
            self.complaints.append(words)


@pytest.fixture
def visit(browser: Browser, page_url: str, request: pytest.FixtureRequest) -> Iterator[Visit]:
    visit = Visit(browser, page_url, **{"locale": "en-US", "width": 1280, **getattr(request, "param", {})})
    yield visit
    visit.context.close()
    assert visit.elsewhere == []
    assert visit.complaints == []


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def choose(page: Page, file: Path) -> None:
    page.set_input_files("#image input[type=file]", file)
    expect(page.locator("#image img")).to_be_attached()


def fill(page: Page, selector: str, value: str) -> None:
    """Types as often as it takes: a control that has just unfolded takes its own first value a moment later."""
    control = page.locator(selector)
    for _ in range(10):
        control.fill(value)
        control.press("Tab")
        page.wait_for_timeout(300)
        if control.input_value() == value:
            return
    expect(control).to_have_value(value)


def caption(page: Page) -> str:
    page.click("#run")
    expect(page.locator("#caption")).to_be_visible()
    return page.locator("#caption").inner_text()


def test_upload_gives_a_caption_with_its_figures_and_its_origin(page: Page) -> None:
    choose(page, SCENE)
    words = caption(page)
    assert len({word for word in TRUTH if word in words.lower()}) >= 3
    expect(page.locator(".figures dd").nth(0)).to_have_text(str(len(words)))
    expect(page.locator(".figures dd").nth(1)).to_have_text(str(len(words.split())))
    expect(page.locator("#caption mark").first).to_have_attribute(
        "title", re.compile(r"(variant|extension|round) \d · score \d\.\d\d · ")
    )
    page.click("details.how summary")
    assert page.locator("details.how li").count() >= 4


def test_a_sample_and_the_copy_button(page: Page) -> None:
    page.locator(".gallery-item").first.click()
    expect(page.locator("#image img")).to_be_visible()
    words = caption(page)
    assert any(word in words.lower() for word in TRUTH)
    page.click("#copy")
    expect(page.locator("#copy.copied")).to_be_attached()
    assert page.evaluate("navigator.clipboard.readText()") == words


def test_an_image_is_pasted(page: Page) -> None:
    picture_bytes = list(encoded(picture(), "PNG"))
    page.evaluate(
        """async (bytes) => {
          const blob = new Blob([new Uint8Array(bytes)], {type: "image/png"});
          await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }""",
        picture_bytes,
    )
    page.locator("#image button[aria-label*='lipboard']").first.click()
    expect(page.locator("#image img")).to_be_attached()
    assert caption(page)


def test_options_reach_the_service(page: Page) -> None:
    choose(page, SCENE)
    page.click("#one-more button")
    page.locator("#one-strategy label", has_text="Basic").click()
    basic = caption(page)
    page.locator("#one-strategy label", has_text="Classic").click()
    page.locator("#one-detail label", has_text="Low").click()
    page.click("#run")
    expect(page.locator("#caption")).not_to_have_text(basic)
    page.click("details.how summary")
    expect(page.locator("#how")).to_contain_text("a detailed photography of")
    assert "Round 2" not in page.locator("#how").inner_text()
    fill(page, "#one-max-words input", "6")
    page.click("#run")
    expect(page.locator("#caption")).to_have_text(re.compile(r"^\S+( \S+){2,5}$"))


@pytest.mark.parametrize("visit", [{"locale": "zh-CN"}], indirect=True)
def test_speaks_the_browsers_language_and_switches(page: Page) -> None:
    expect(page.locator("#run")).to_have_text("生成描述")
    expect(page).to_have_title("这张图片里有什么？")
    choose(page, SCENE)
    words = caption(page)
    expect(page.locator("#result")).to_contain_text("字符")
    page.locator("#language label", has_text="English").click()
    expect(page.locator("#run")).to_have_text("Describe")
    expect(page.locator("#result")).to_contain_text("characters")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert page.locator("#caption").inner_text() == words


@pytest.mark.parametrize("kind", ["text", "cut"])
def test_a_file_that_is_no_image_gets_one_sentence(visit: Visit, tmp_path: Path, kind: str) -> None:
    bad = tmp_path / "photo.jpg"
    bad.write_bytes(b"Dear diary" if kind == "text" else SCENE.read_bytes()[:900])
    page = visit.page
    choose(page, bad)
    page.click("#run")
    sentence = page.locator("#result .failure p")
    expect(sentence).to_contain_text("image")
    assert sentence.inner_text().count(".") == 1
    assert "Traceback" not in page.locator("body").inner_text()


def test_a_bad_option_and_a_missing_image_get_one_sentence(page: Page) -> None:
    page.click("#run")
    expect(page.locator("#result .failure p")).to_have_text("Choose an image first.")
    choose(page, SCENE)
    page.click("#one-more button")
    fill(page, "#one-seed input", "-1")
    page.click("#run")
    expect(page.locator("#result .failure p")).to_contain_text("seed")


@pytest.mark.parametrize("visit", [{"width": 390}], indirect=True)
def test_fits_a_phone(page: Page) -> None:
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    choose(page, SCENE)
    caption(page)
    page.click("details.how summary")
    assert not page.evaluate(wide)
    page.get_by_role("tab").nth(1).click()
    expect(page.locator("#run-batch")).to_be_visible()
    assert not page.evaluate(wide)


def test_several_images_with_a_bad_one(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"Dear diary")
    page.get_by_role("tab").nth(1).click()
    page.set_input_files("#files input[type=file]", [SCENE, bad, SCENES / "0036.jpg"])
    expect(page.locator("#files")).to_contain_text("bad")
    page.locator("#many-detail label", has_text="Low").click()
    page.click("#run-batch")
    expect(page.locator("#csv")).to_be_visible()
    expect(page.locator("#rows tr.done")).to_have_count(2)
    expect(page.locator("#rows tr.failed")).to_contain_text("image")
    with page.expect_download() as download:
        page.click("#csv")
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["0026.jpg", "bad.jpg", "0036.jpg"]
    assert "hamburger" in rows[0]["caption"].lower()
    assert rows[1]["error"]
    assert not rows[1]["caption"]
    with page.expect_download() as download:
        page.click("#jsonl")
    assert len(Path(download.value.path()).read_text(encoding="utf-8").splitlines()) == 3


def test_a_question_and_texts_about_an_image(page: Page) -> None:
    page.get_by_role("tab").nth(2).click()
    page.click("#question-run")
    expect(page.locator("#question-result")).to_contain_text("image")
    page.set_input_files("#question-image input[type=file]", SCENE)
    expect(page.locator("#question-image img")).to_be_attached()
    page.fill("#question textarea, #question input", "is there a hamburger?")
    page.click("#question-run")
    expect(page.locator("#question-result .words")).to_have_text("yes")
    page.get_by_role("tab").nth(3).click()
    page.set_input_files("#texts-image input[type=file]", SCENE)
    expect(page.locator("#texts-image img")).to_be_attached()
    page.fill("#texts textarea", "a zebra on the green grass\na hamburger\n")
    page.click("#texts-run")
    rows = page.locator("#texts-result tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("a hamburger")
