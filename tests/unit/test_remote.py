"""Captions by a chat endpoint, over a server that speaks its protocol well and badly."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from serve_app import remote
from serve_app.args import AppArgs
from serve_app.cli.main import app
from serve_app.errors import DeadlineExceeded, GenerationFailed
from serve_app.pipeline import CaptionPipeline
from serve_app.remote import RemoteGenerator
from serve_app.types import CHAT_PROMPTS, Generated, GenerateJob, GenerationParameters, Outcome, Pixels
from tests.unit.fakes import options
from tests.unit.test_polish import Answer, chat, says

PIXELS = Pixels("d1", 20, 40, bytes([200, 30, 30]) * 20 * 40)
SAMPLED = GenerationParameters(
    max_length=50, num_beams=8, do_sample=True, temperature=0.8, top_p=0.9, length_penalty=3.0
)


def asked(answer: Answer, *jobs: GenerateJob, timeout_s: float = 10.0) -> tuple[list[Outcome], list[dict[str, Any]]]:
    with chat(answer) as (url, requests):
        generator = RemoteGenerator(url, "vlm", "secret")
        return asyncio.run(generator.generate(PIXELS, jobs or [GenerateJob("", SAMPLED)], timeout_s)), requests


def with_probabilities(text: str, *logprobs: float) -> tuple[int, bytes]:
    status, body = says(text)
    told = json.loads(body)
    told["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": p, "top_logprobs": []} for p in logprobs]}
    told["usage"] = {"prompt_tokens": 300, "completion_tokens": len(logprobs), "total_tokens": 300 + len(logprobs)}
    return status, json.dumps(told).encode()


def test_a_prompt_and_the_picture_are_asked_and_the_answer_is_read() -> None:
    outcomes, ((request),) = asked(
        lambda _: with_probabilities(" A red\nwall. ", -0.5, -1.5), GenerateJob("What?", SAMPLED, 7)
    )
    assert outcomes == [Generated("A red\nwall.", "", -2.0 / 2**3, 2)]
    assert (request["path"], request["authorization"], request["model"]) == (
        "/v1/chat/completions",
        "Bearer secret",
        "vlm",
    )
    assert (request["max_tokens"], request["temperature"], request["top_p"], request["seed"]) == (50, 0.8, 0.9, 7)
    picture, text = request["messages"][0]["content"]
    assert text["text"] == "What?"
    image = Image.open(io.BytesIO(base64.b64decode(picture["image_url"]["url"].partition(",")[2])))
    assert (image.format, image.size) == ("JPEG", (40, 20))


def test_requests_and_the_tokens_of_the_server_are_counted() -> None:
    answers = iter([with_probabilities("A wall.", -0.5, -1.5), (500, b""), (500, b""), (500, b""), says("A wall.")])
    with chat(lambda _: next(answers)) as (url, _):
        generator = RemoteGenerator(url, "vlm")
        for _ in range(3):
            asyncio.run(generator.generate(PIXELS, [GenerateJob("", SAMPLED)], 30))
    assert generator.counters == remote.RemoteCounters(3, 1, 300, 2)


def test_jobs_run_at_once() -> None:
    def slow(_: dict[str, Any]) -> tuple[int, bytes]:
        time.sleep(0.3)
        return says("a wall")

    begun = time.monotonic()
    outcomes, requests = asked(slow, *(GenerateJob(f"p{number}", SAMPLED) for number in range(6)))
    assert len(requests) == len(outcomes) == 6
    assert time.monotonic() - begun < 1.5


def test_a_server_without_probabilities_is_asked_without_them() -> None:
    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        return (
            (400, b'{"error": {"message": "logprobs is not supported"}}') if "logprobs" in request else says("a wall")
        )

    outcomes, requests = asked(answer, GenerateJob("a", SAMPLED))
    assert outcomes == [Generated("a wall", "", None, 0)]
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((500, b"{}"), "status 500"),
        ((401, b'{"error": "key"}'), "status 401"),
        ((400, b'{"error": "no"}'), "400"),
        ((200, b"rubbish"), "cannot be read"),
        ((200, b"{}"), "no text"),
        (says(""), "no text"),
    ],
)
def test_what_goes_wrong_is_told_in_a_sentence(
    answer: tuple[int, bytes], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RETRIES", 0)
    (outcome,), _ = asked(lambda _: answer)
    assert isinstance(outcome, GenerationFailed), outcome
    assert said in outcome.message
    assert "\n" not in outcome.message


def test_a_busy_server_is_asked_again() -> None:
    answers = iter([(429, b"{}"), (503, b"{}"), says("a wall")])
    (outcome,), requests = asked(lambda _: next(answers))
    assert isinstance(outcome, Generated), outcome
    assert len(requests) == 3


def test_a_slow_server_costs_no_more_than_the_time_limit() -> None:
    def slow(_: dict[str, Any]) -> tuple[int, bytes]:
        time.sleep(1.5)
        return says("a wall")

    begun = time.monotonic()
    (outcome,), _ = asked(slow, timeout_s=0.4)
    assert isinstance(outcome, DeadlineExceeded)
    assert time.monotonic() - begun < 3


def test_a_server_that_fails_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RETRIES", 0)
    monkeypatch.setattr(remote, "PAUSE_S", 0.5)

    async def run(url: str, requests: list[Any]) -> None:
        generator = RemoteGenerator(url, "vlm", concurrency=1)
        await generator.generate(PIXELS, [GenerateJob("", SAMPLED)] * 8, 10)
        assert len(requests) == remote.MOST_FAILURES
        (outcome,) = await generator.generate(PIXELS, [GenerateJob("", SAMPLED)], 10)
        assert isinstance(outcome, GenerationFailed)
        assert "left alone" in outcome.message
        await asyncio.sleep(0.6)
        await generator.generate(PIXELS, [GenerateJob("", SAMPLED)], 10)
        assert len(requests) == remote.MOST_FAILURES + 1

    with chat(lambda _: (500, b"{}")) as (url, requests):
        asyncio.run(run(url, requests))


def test_nobody_there_is_told() -> None:
    generator = RemoteGenerator("http://127.0.0.1:9/v1", "vlm")
    (outcome,) = asyncio.run(generator.generate(PIXELS, [GenerateJob("", SAMPLED)], 20))
    assert isinstance(outcome, GenerationFailed | DeadlineExceeded)


def test_a_caption_of_it_has_its_prompts_as_sources() -> None:
    answers = dict(zip(CHAT_PROMPTS, ["A dog on a couch.", "One dog. A couch.", "A dog."], strict=True))

    def answer(request: dict[str, Any]) -> tuple[int, bytes]:
        return says(answers.get(request["messages"][0]["content"][1]["text"], "A dog."))

    with chat(answer) as (url, _):
        pipeline = CaptionPipeline(RemoteGenerator(url, "vlm"))
        result = asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=1)))
    assert result.caption.startswith("A dog on a couch.")
    assert [variant.prompt for variant in result.variants] == list(CHAT_PROMPTS)
    assert result.model == "vlm"


@pytest.mark.parametrize("settings", [{"engine": "openai"}, {"captioner_url": "http://vlm/v1"}])
def test_engine_and_url_go_together(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="captioner_url go together"):
        AppArgs(model="vlm", **settings)


def test_the_command_line_captions_by_a_url(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), "red").save(tmp_path / "wall.png")
    with chat(lambda _: says("A red wall.")) as (url, requests):
        result = CliRunner().invoke(
            app, ["caption", str(tmp_path / "wall.png"), "--captioner-url", url, "--model", "vlm"]
        )
    assert result.exit_code == 0, result.output
    assert "A red wall." in result.stdout
    assert {request["model"] for request in requests} == {"vlm"}
