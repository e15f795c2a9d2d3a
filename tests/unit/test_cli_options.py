"""Flags of the command line, up to what the captioner or the job is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from serve_app.args import AppArgs
from serve_app.batch import command
from serve_app.cli import launch
from serve_app.cli.main import app
from serve_app.service import CaptionService
from tests.unit.captioners import LENGTH, TellingCaptioner, length_of
from tests.unit.test_api import PNG

FLAGS = ("--max-words", "9", "--max-characters", "60", "--no-tidy")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(PNG)
    return tmp_path / "a.png"


@pytest.fixture
def captioner(monkeypatch: pytest.MonkeyPatch) -> TellingCaptioner:
    """In place of the models that `caption-serve caption` would load."""
    found = TellingCaptioner()
    local = SimpleNamespace(local_service=lambda _: CaptionService(found))
    monkeypatch.setitem(sys.modules, "serve_app.local", local)
    return found


def test_caption_takes_length_and_tidiness(captioner: TellingCaptioner, image: Path) -> None:
    done = CliRunner().invoke(app, ["caption", *FLAGS, str(image)])
    assert done.exit_code == 0, done.output
    assert done.stdout == "A dog lies on a couch.\n"
    assert [length_of(options) for options in captioner.asked] == [LENGTH]


@pytest.mark.parametrize("flags", [(), ("--tidy",)])
def test_captions_are_tidy_and_of_any_length_by_default(
    captioner: TellingCaptioner, image: Path, flags: tuple[str, ...]
) -> None:
    assert CliRunner().invoke(app, ["caption", *flags, str(image)]).exit_code == 0
    assert length_of(captioner.asked[0]) == {"max_words": None, "max_characters": None, "tidy": True}


@pytest.mark.parametrize("flags", [("--max-words", "0"), ("--max-characters", "19"), ("--max-words", "few")])
@pytest.mark.parametrize("words", [("caption",), ("batch", "--out", "/nowhere")])
def test_lengths_that_hold_nothing_are_refused(image: Path, words: tuple[str, ...], flags: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*words, *flags, str(image)])
    assert done.exit_code == 2
    assert flags[0] in done.output


def test_batch_asks_for_captions_of_that_length(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    given: list[dict[str, Any]] = []

    def main(source: str, out: str, settings: dict[str, Any], dry_run: bool) -> int:
        given.append(command.settings_of(source, out, settings)[0].model_dump())
        return 0

    monkeypatch.setattr(command, "main", main)
    for flags in (FLAGS, (), ("--tidy",)):
        assert CliRunner().invoke(app, ["batch", str(image), "--out", "/nowhere", *flags]).exit_code == 0
    assert [settings["options"] for settings in given] == [LENGTH, {}, {}]


def test_serve_says_in_a_sentence_what_is_wrong_with_a_config(tmp_path: Path) -> None:
    """A config without applications or http_options was a traceback."""
    config = tmp_path / "serve.yaml"
    for text, told in (("a: [", "not a Serve config"), ("proxy_location: HeadOnly", "it has no applications"),
                       ("applications: [{name: captions, deployments: 3}]", "no such file")):  # fmt: skip
        config.write_text(text)
        done = CliRunner().invoke(app, ["serve", "--config", str(config), "--sample", str(tmp_path / "none.png")])
        assert done.exit_code == 1
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_serve_takes_serves_defaults_and_leaves_the_page_out_without_gradio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, ours = tmp_path / "serve.yaml", tmp_path / "ours.yaml"
    config.write_text("applications: [{name: captions}, {name: page, import_path: 'serve_app.app:build_page'}]")
    served = launch.write_config(config, ours, "other/model", None)
    assert (served.url, served.model, served.page) == ("http://127.0.0.1:8000", "other/model", True)
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda _: None)
    assert not launch.write_config(config, ours, None, 8001).page
    assert "build_page" not in ours.read_text()


def test_several_captioners_by_flag(monkeypatch: pytest.MonkeyPatch, image: Path) -> None:
    told: list[AppArgs] = []
    found = TellingCaptioner()
    local = SimpleNamespace(local_service=lambda args: told.append(args) or CaptionService(found))
    monkeypatch.setitem(sys.modules, "serve_app.local", local)
    flags = ["--captioner", "blip=demo", "--captioner", "vlm=qwen@http://vlm:8000/v1"]
    done = CliRunner().invoke(app, ["caption", *flags, str(image)])
    assert done.exit_code == 0, done.output
    assert {name: (each.model, each.captioner_url) for name, each in told[0].each().items()} == {
        "blip": ("demo", None), "vlm": ("qwen", "http://vlm:8000/v1"),
    }  # fmt: skip
    assert told[0].matcher is None, "the embedded matcher knows scenes only"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--captioner", "demo"], "NAME=MODEL"),
        (["--captioner", "a=demo", "--captioner-url", "http://x/v1"], "--captioner"),
        (["--captioner", "a=demo", "--captioner", "a=demo"], "different names"),
        (["--captioner", "A B=demo"], "name"),
        (["--engine", "magic"], "There is no engine 'magic'"),
    ],
)
def test_captioners_that_don_t_fit_are_told_in_a_sentence(image: Path, flags: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["caption", *flags, str(image)])
    assert done.exit_code == 2, done.output
    assert told in " ".join(done.output.split())
    assert "Traceback" not in done.output
