"""Rewriting by a chat model, over a server that speaks its protocol well and badly."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from serve_app.args import AppArgs
from serve_app.pipeline import CaptionPipeline
from serve_app.service.polish import ChatPolisher
from serve_app.types import CaptionResult
from tests.unit.fakes import PIXELS, RuleGenerator, options
from tests.unit.test_grounded import RuleMatcher, no_pizza

Answer = Callable[[dict[str, Any]], tuple[int, bytes]]
CAPTION = "A dog on a couch."


def says(text: str | None, finish_reason: str = "stop") -> tuple[int, bytes]:
    body = {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}],
    }  # fmt: skip
    return 200, json.dumps(body).encode()


@contextmanager
def chat(answer: Answer, port: int = 0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append({"path": self.path, "authorization": self.headers.get("authorization"), **body})
            status, content = answer(body)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()


def polished(url: str, timeout_s: float = 5.0, matcher: RuleMatcher | None = None) -> CaptionResult:
    polisher = ChatPolisher(url, "m", "secret", timeout_s)
    pipeline = CaptionPipeline(
        RuleGenerator(lambda prompt: f"{prompt} a dog on a couch"), matcher=matcher, polisher=polisher
    )
    return asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=1)))


def test_a_fluent_text_that_adds_nothing_is_taken() -> None:
    with chat(lambda _: says("There is a dog on a couch.\n")) as (url, asked):
        result = polished(url, matcher=RuleMatcher(no_pizza))
    assert (result.caption, result.degraded) == ("There is a dog on a couch.", ())
    (request,) = asked
    assert (request["path"], request["model"]) == ("/v1/chat/completions", "m")
    assert request["authorization"] == "Bearer secret"
    assert CAPTION in request["messages"][1]["content"]
    assert "polish" in result.timings_ms


def test_a_part_without_a_known_form_is_said_to_be_weighed_as_a_whole() -> None:
    """`whole` was false for every clause of a rewritten text."""
    with chat(lambda _: says("Sitting. A dog on a couch.")) as (url, _):
        result = polished(url, matcher=RuleMatcher(no_pizza))
    assert result.caption == "Sitting. A dog on a couch."
    assert [clause.whole for clause in result.clauses if clause.text == "Sitting"] == [True]
    assert [clause.whole for clause in result.clauses if clause.text == "on a couch"] == [False]


@pytest.mark.parametrize("matcher", [RuleMatcher(no_pizza), None])
def test_a_text_that_adds_what_is_not_there_is_dropped(matcher: RuleMatcher | None) -> None:
    with chat(lambda _: says("A dog lies on a couch and a pizza is on the floor.")) as (url, _):
        result = polished(url, matcher=matcher)
    assert result.caption == CAPTION
    assert "polish: the rewritten text said what the image does not support." in result.degraded


def slow(_: dict[str, Any]) -> tuple[int, bytes]:
    time.sleep(1.5)
    return says("A dog.")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: (500, b"{}"), "status 500"),
        (lambda _: (429, b"slow down"), "status 429"),
        (lambda _: (200, b"not json"), "cannot be read"),
        (lambda _: (200, b"[]"), "no text"),
        (lambda _: (200, b'{"choices": []}'), "no text"),
        (lambda _: says(""), "no text"),
        (lambda _: says(None), "no text"),
        (lambda _: says("A dog on a couch", "length"), "cut off"),
        (lambda _: says("A couch."), "left something out"),
        (slow, "in time"),
        (lambda _: says(" ".join(["the dog is on a couch and"] * 400)), "too long"),
    ],
    ids=["500", "429", "no json", "a list", "no choices", "empty", "null", "cut", "less", "slow", "endless"],
)
def test_any_fault_leaves_the_caption_and_is_told(answer: Answer, reason: str) -> None:
    with chat(answer) as (url, _):
        result = polished(url, timeout_s=0.7, matcher=RuleMatcher(no_pizza))
    assert result.caption == CAPTION
    (loss,) = result.degraded
    assert loss.startswith("polish: ")
    assert reason in loss


def test_nobody_there() -> None:
    result = polished("http://127.0.0.1:9/v1", matcher=RuleMatcher(no_pizza))
    assert (result.caption, result.degraded) == (CAPTION, ("polish: the chat model cannot be reached.",))


def test_url_and_model_go_together() -> None:
    with pytest.raises(ValueError, match="go together"):
        AppArgs(polish_url="http://llm/v1")
