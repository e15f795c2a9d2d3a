"""The parts of the web page that need no browser."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import AsyncGenerator, Sequence
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.args import PageArgs
from serve_app.deployments import page as page_deployment
from serve_app.errors import CaptionServeError, GeneratorUnavailable, InvalidImage, InvalidRequest, Overloaded
from serve_app.http.middleware import uploads as uploads_middleware
from serve_app.ui import batch, build_page, mount, page_app, render
from serve_app.ui.environment import FILES
from serve_app.ui.files import Upload, uploaded
from serve_app.ui.options import options_of
from serve_app.ui.page import names_remote_file
from serve_app.ui.sessions import Sessions
from serve_app.ui.texts import TEXTS, error_text, language_of, text
from serve_app.ui.view import View
from tests.pictures import encoded, picture

HOSTILE = '<img src=x onerror=alert(1)> "quoted" {{this}} ${1+1} `x`'


def piece(words: str, start: int, **changes: Any) -> dict[str, Any]:
    return {
        "text": words,
        "start": start,
        "end": start + len(words),
        "statement": f"there is {words}",
        "score": 0.9,
        "source": {"kind": "variant", "index": 1, "captioner": "demo", "prompt": "a photo of"},
        "whole": False,
        **changes,
    }


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "event": "result",
        "id": "r",
        "model": "demo",
        "caption": "a boat",
        "stats": {"characters": 6, "words": 2},
        "variants": [{"prompt": "a photo of", "text": "a boat", "score": None}],
        "rounds": [{"round": 2, "text": "a boat", "accepted": False}],
        "clauses": [piece("a boat", 0)],
        "contested": [],
        "degraded": [],
        "notices": [],
        "seed": 0,
        "timings_ms": {"total": 1500.0},
        **changes,
    }


def done(**changes: Any) -> View:
    view = View()
    view.add(answer(**changes))
    return view


class Backend:
    """Answers with the image's own bytes as caption; `errors` come first, one a call."""

    def __init__(self, *errors: Exception, wait: asyncio.Event | None = None) -> None:
        self.errors = list(errors)
        self.running = self.most = self.closed = 0
        self.wait = wait

    async def events(self, image: bytes, options: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(0.001)
            if self.errors:
                raise self.errors.pop(0)
            yield {"event": "merge", "text": ""}
            if self.wait is not None:
                await self.wait.wait()
            yield answer(caption=image.decode())
        finally:
            self.running -= 1
            self.closed += 1

    async def describe(self) -> dict[str, Any]:
        raise GeneratorUnavailable("The service is starting.")


def uploads(directory: Path, *names: str) -> list[Upload]:
    for name in names:
        (directory / name).write_text(name)
    return [Upload(directory / name, name) for name in names]


def test_both_languages_have_every_text() -> None:
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()


@pytest.mark.parametrize(
    ("accepted", "language"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB,zh;q=0.5", "en"), ("en;q=0.4,zh-TW;q=0.6", "zh"), ("fr", "en"),
     ("fr,zh;q=0.2", "zh"), ("zh;q=0,en", "en"), ("zh;q=x", "en"), ("", "en"), (None, "en")],
)  # fmt: skip
def test_the_browser_chooses_the_language(accepted: str | None, language: str) -> None:
    assert language_of(accepted) == language


def test_unknown_errors_keep_their_own_sentence() -> None:
    assert error_text("zh", CaptionServeError("Something else.")) == "Something else."
    assert error_text("en", InvalidImage("It is broken.")) == "It is broken."
    assert error_text("zh", InvalidImage("It is broken.")) != "It is broken."


def test_nothing_from_outside_becomes_markup_or_template() -> None:
    hostile = done(
        caption=HOSTILE,
        variants=[{"prompt": HOSTILE, "text": HOSTILE, "score": 0.5}],
        rounds=[{"round": 2, "text": HOSTILE, "accepted": True}],
        clauses=[piece(HOSTILE[3:], 3, statement=HOSTILE)],
        contested=[{"text": HOSTILE, "score": 0.3, "against": HOSTILE, "against_score": 0.9}],
        degraded=[HOSTILE],
        notices=[HOSTILE],
    )
    failed = View()
    failed.fail(InvalidImage(HOSTILE))
    running = View(status="running")
    running.add({"event": "start", "prompts": ["a"], "rounds": 1, "strategy": "classic"})
    running.add({"event": "variant", "index": 1, "prompt": HOSTILE, "text": HOSTILE})
    row = batch.BatchFile(HOSTILE, "done", answer(caption=HOSTILE))
    shown = [
        render.result(hostile, "en"),
        render.details(hostile, "en"),
        render.result(failed, "en"),
        render.result(running, "en"),
        render.header("en", HOSTILE),
        batch.table([row, batch.BatchFile(HOSTILE, "failed", error=InvalidImage(HOSTILE))], "en"),
    ]
    for html in shown:
        assert "onerror" in html
        assert not any(sign in html for sign in ("<img", '"quoted"', "{{", "${", "`"))


@pytest.mark.parametrize(
    ("score", "kind"),
    [(None, "score-none"), (0.0, "score-poor"), (0.5, "score-fair"), (0.95, "score-good")],
)
def test_a_clause_is_coloured_by_its_score_and_tells_its_source(score: float | None, kind: str) -> None:
    source = {"kind": "variant", "index": 3, "captioner": "demo", "prompt": "a photo of"}
    html = render.clause(piece("a boat", 0, source=source, score=score), "zh")
    assert f'class="{kind}"' in html
    assert 'title="变体 3 · ' in html
    assert 'tabindex="0"' in html


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "variant 1 · score 0.90 · weighed as: there is a boat"),
        ({"whole": True}, "variant 1 · score 0.90 · weighed in one piece: there is a boat"),
        ({"statement": None, "score": None}, "variant 1 · not scored"),
        (
            {"source": {"kind": "round", "index": 2}, "statement": None},
            "round 2 · score 0.90",
        ),
        (
            {"source": {"kind": "variant", "index": None}, "statement": None},
            "words of all variants · score 0.90",
        ),
    ],
)
def test_a_clause_tells_what_was_weighed(changes: dict[str, Any], told: str) -> None:
    assert f'title="{told}"' in render.clause(piece("a boat", 0, **changes), "en")


def test_several_captioners_have_colours_of_their_own() -> None:
    def of(*names: str) -> View:
        variants = [{"prompt": "p", "captioner": name, "text": "a boat", "score": 0.9} for name in names]
        source = {"kind": "variant", "index": 2, "captioner": names[-1], "prompt": "p"}
        return done(caption="A boat.", variants=variants, clauses=[piece("A boat", 0, source=source)])

    shown = render.result(of("blip", "<vlm>"), "en")
    assert '<ul class="voices"><li class="voice-0">blip</li><li class="voice-1">&lt;vlm&gt;</li></ul>' in shown
    assert 'class="score-good voice-1" title="&lt;vlm&gt; · variant 2' in shown
    assert "&lt;vlm&gt; · p" in render.details(of("blip", "<vlm>"), "en")
    for html in (render.result(of("blip", "blip"), "en"), render.details(of("blip", "blip"), "en")):
        assert "voice-" not in html
        assert "blip" not in html, "one captioner is named once, in the head"


CAPTION = 'A boat & a "big" dog <near> it.'


def test_the_caption_itself_is_coloured_and_reads_as_it_is() -> None:
    clauses = [piece("boat", 2), piece('"big" dog', 11, score=0.5), piece("near", 22, score=0.1)]
    html = render.result(done(caption=CAPTION, clauses=clauses), "en")
    shown = html[html.index('<p id="caption">') + len('<p id="caption">') : html.index("</p>")]
    marks = re.findall(r'<mark class="score-(\w+)"[^>]*>([^<]*)</mark>', shown)
    assert [(kind, unescape(words)) for kind, words in marks] == [
        ("good", "boat"), ("fair", '"big" dog'), ("poor", "near"),
    ]  # fmt: skip
    assert unescape(re.sub(r"<[^>]*>", "", shown)) == CAPTION, "what the copy button takes"
    assert shown.startswith("A <mark")
    assert shown.endswith("</mark>&gt; it.")


def test_a_caption_without_words_says_so() -> None:
    assert text("en", "no_caption") in render.result(done(caption="", clauses=[]), "en")


def test_colours_are_explained_where_there_are_some() -> None:
    assert text("en", "legend") in render.result(done(), "en")
    assert text("en", "legend") not in render.result(done(clauses=[piece("a boat", 0, score=None)]), "en")


@pytest.mark.parametrize(
    ("language", "title", "first", "second"),
    [
        ("en", "Statements that contradict others", "Left out: there are two boats", "Against: there is a boat"),
        ("zh", "相互矛盾的陈述", "未采用：there are two boats", "与之矛盾：there is a boat"),
    ],
)
def test_contested_statements_are_listed_with_both_scores(language: str, title: str, first: str, second: str) -> None:
    entry = {"text": "there are two boats", "score": 0.31, "against": "there is a boat", "against_score": 0.92}
    html = render.details(done(contested=[entry]), language)
    left_out, against = html[html.index(title) :].split("<span>")
    assert first in left_out
    assert "0.31" in left_out
    assert second in against
    assert "0.92" in against
    assert title not in render.details(done(), language)


def test_notices_are_shown_with_the_caption() -> None:
    html = render.result(done(notices=["Left out for the length: 2 statements."]), "en")
    assert "<li>Left out for the length: 2 statements.</li>" in html
    assert text("en", "notices") in html
    assert text("en", "degraded") not in html


def test_progress_shows_what_finished_and_what_is_to_come() -> None:
    view = View(status="running")
    assert text("en", "starting") in render.result(view, "en")
    view.add({"event": "start", "prompts": ["a", "b"], "rounds": 2, "strategy": "classic"})
    view.add({"event": "variant", "index": 2, "prompt": "b", "text": "a boat"})
    html = render.result(view, "en")
    assert '<li class="finished"><b>Variant 2</b><span>a boat</span>' in html
    assert '<li class="pending"><b>Variant 1</b>' in html
    assert '<li class="pending"><b>Round 2</b>' in html
    assert view.share_done == 0.25


def test_result_shows_caption_and_figures() -> None:
    html = render.result(done(degraded=["variant 4: no answer"]), "en")
    for part in ("a boat", "<dd>6</dd>", "<dd>2</dd>", "<dd>1.5</dd>", "variant 4: no answer"):
        assert part in html


def test_options_leave_defaults_to_the_service() -> None:
    assert options_of(["high", True, "classic", None, 0]) == {"detail": "high", "strategy": "classic"}
    assert options_of(["low", False, "basic", 7, 20]) == {
        "detail": "low", "strategy": "basic", "max_words": 20, "seed": 7, "multi_round": False,
    }  # fmt: skip


def test_only_uploads_are_read(tmp_path: Path) -> None:
    sent = FILES / "x" / "a.jpg"
    named = {"path": str(sent), "orig_name": "../../b.jpg"}
    assert uploaded(named) == Upload(sent.resolve(), "b.jpg")
    assert uploaded(None) is None
    for path in ("/etc/passwd", str(tmp_path / "a"), f"{FILES}/../a", "a.jpg"):
        with pytest.raises(InvalidRequest):
            uploaded({"path": path})


def test_a_link_out_of_the_uploads_is_refused(tmp_path: Path) -> None:
    link = FILES / "link.jpg"
    link.symlink_to(tmp_path)
    with pytest.raises(InvalidRequest):
        uploaded({"path": str(link)})
    link.unlink()


@pytest.mark.parametrize(
    ("payload", "refused"),
    [([{"path": "http://10.0.0.1/a"}], True), ([[{"x": {"path": "ftp://a/b"}}]], True),
     ([{"path": "/tmp/a.jpg"}, "http://words", None, 3], False)],
)  # fmt: skip
def test_forged_payloads_make_the_server_fetch_nothing(payload: list[Any], refused: bool) -> None:
    assert names_remote_file(payload) is refused


async def test_batch_is_bounded_and_keeps_its_order(tmp_path: Path) -> None:
    backend = Backend()
    names = [f"{index}.jpg" for index in range(12)]
    shown = [[row.status for row in rows] async for rows in batch.run(backend, uploads(tmp_path, *names), {})]
    rows = [rows async for rows in batch.run(backend, uploads(tmp_path, *names), {})][-1]
    assert backend.most == batch.AT_ONCE
    assert any("done" in states and "queued" in states for states in shown)
    assert [row.result["caption"] for row in rows if row.result] == names


async def test_a_bad_file_of_a_batch_is_a_row(tmp_path: Path) -> None:
    (whole, gone) = (*uploads(tmp_path, "a.jpg"), Upload(tmp_path / "gone.jpg", "gone.jpg"))
    files = [gone, whole, Upload(whole.path, "b.jpg")]
    rows = [rows async for rows in batch.run(Backend(InvalidImage("It is broken.")), files, {})][-1]
    assert [row.error_in("en") for row in rows] == [text("en", "error_upload"), "It is broken.", ""]
    assert [row.status for row in rows] == ["failed", "failed", "done"]
    assert '<tr class="failed"><td>a.jpg</td><td>It is broken.</td></tr>' in batch.table(rows, "en")


async def test_a_batch_waits_for_a_full_service(tmp_path: Path) -> None:
    backend = Backend(Overloaded("Full.", 0.001), Overloaded("Full.", 0.001))
    rows = [rows async for rows in batch.run(backend, uploads(tmp_path, "a.jpg"), {})][-1]
    assert (rows[0].status, rows[0].error) == ("done", None)


async def test_closing_a_batch_ends_its_requests(tmp_path: Path) -> None:
    backend = Backend(wait=asyncio.Event())
    work = batch.run(backend, uploads(tmp_path, "a.jpg", "b.jpg"), {})
    async for _ in work:
        if backend.running == 2:
            break
    await work.aclose()
    assert (backend.running, backend.closed) == (0, 2)


def test_csv_and_jsonl_hold_answers_and_errors() -> None:
    rows = [
        batch.BatchFile("=cmd|' /C calc'!A0", "done", answer(caption='一只船, "old"')),
        batch.BatchFile("b.jpg", "failed", error=InvalidImage("It is broken.")),
    ]
    header, first, second = csv.reader(io.StringIO(batch.as_csv(rows)))
    assert tuple(header) == batch.COLUMNS
    assert first == ["'=cmd|' /C calc'!A0", '一只船, "old"', "6", "2", "1.5", ""]
    assert second == ["b.jpg", "", "", "", "", "It is broken."]
    lines = [json.loads(line) for line in batch.as_jsonl(rows).splitlines()]
    assert lines[0]["result"]["caption"] == '一只船, "old"'
    assert "event" not in lines[0]["result"]
    assert lines[1] == {"file": "b.jpg", "result": None, "error": "It is broken."}


async def test_leaving_ends_a_request_that_waits() -> None:
    backend, sessions = Backend(wait=asyncio.Event()), Sessions()
    seen = []
    async with asyncio.timeout(5):
        async for event in sessions.run("s", backend.events(b"x", {})):
            seen.append(event["event"])
            sessions.leave("another")
            sessions.leave("s")
    assert seen == ["merge"]
    assert (backend.running, backend.closed) == (0, 1)


async def test_errors_come_through_a_session() -> None:
    with pytest.raises(InvalidImage):
        [_ async for _ in Sessions().run("s", Backend(InvalidImage("It is broken.")).events(b"x", {}))]


async def test_page_serves_no_file_of_the_machine() -> None:
    app = mount(build_page(Backend()), "/ui")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/")).status_code == 200
        config = (await client.get("/config")).json()
        for path in ("/etc/passwd", str(Path(__file__)), str(Path.cwd() / "README.md")):
            assert (await client.get(f"/gradio_api/file={path}")).status_code == 403
    assert all(event["api_visibility"] == "private" for event in config["dependencies"])
    assert "googleapis" not in json.dumps(config["stylesheets"])


class GuardedBackend(Backend):
    """A service that knows some keys."""

    keys: tuple[str, ...] = ("good",)

    async def keys_needed(self) -> bool:
        return bool(self.keys)

    async def check_keys(self, given: Sequence[str]) -> str | None:
        return next((f"name of {key}" for key in given if key in self.keys), None)


async def test_page_asks_for_a_key_where_the_api_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The page was open beside a guarded API unless a second setting said the same, and a key that was taken out stayed
    logged in."""
    monkeypatch.setattr(page_deployment, "ASK_AGAIN_S", 0)
    backend = GuardedBackend()
    app = page_deployment.guarded(page_app(backend, PageArgs()), backend, tmp_path)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        refused = await client.get("/config")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="caption-serve"')
        assert (await client.get("/config", auth=("me", "wrong"))).status_code == 401
        assert (await client.get("/config", auth=("me", "good"))).status_code == 200
        backend.keys = ("another",)
        assert (await client.get("/config", auth=("me", "good"))).status_code == 401
        backend.keys = ()
        answer = await client.get("/config")
        assert answer.status_code == 200
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


async def test_uploads_of_the_page_are_bounded_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One POST stored 90 MB of random bytes for anybody."""
    backend = GuardedBackend()
    backend.keys = ()
    app = page_deployment.guarded(page_app(backend, PageArgs()), backend, tmp_path)
    image = encoded(picture(), "PNG")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=60) as client:

        async def upload(*files: bytes) -> int:
            parts = [("files", (f"{number}.png", data)) for number, data in enumerate(files)]
            return (await client.post("/gradio_api/upload", files=parts)).status_code

        assert await upload(image, image) == 200
        assert await upload(b"Dear diary") == 200  # the page says what is wrong with it
        assert await upload(b"Dear diary" * 20_000) == 415
        assert await upload(*[image] * 65) == 413
        assert await upload(image + bytes(61_000_000)) == 413
        assert (await client.post("/gradio_api/upload", content=b"x")).status_code == 400
        (tmp_path / "kept").write_bytes(b"x" * 100)
        monkeypatch.setattr(uploads_middleware, "MOST_KEPT_BYTES", 99)
        assert await upload(image) == 503
