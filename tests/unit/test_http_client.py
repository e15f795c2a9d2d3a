"""The Python client, against the real application in process and against faults."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serve_app.client import AsyncCaptionServe, CaptionServe, ServiceUnreachable, UnexpectedAnswer
from serve_app.contract import CaptionBody, ResultEvent
from serve_app.errors import (
    CaptionServeError,
    DeadlineExceeded,
    GeneratorUnavailable,
    ImageTooLarge,
    InvalidOption,
    Overloaded,
    QuotaExceeded,
    Unauthorized,
    UnsupportedImage,
    UrlNotAllowed,
)
from serve_app.http import create_app
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService
from tests.pictures import picture
from tests.unit.captioners import LENGTH, TellingCaptioner, length_of
from tests.unit.fakes import CLASSIC, RuleGenerator
from tests.unit.test_api import PNG, echo

BODY = {
    "id": "1", "model": "m", "caption": "a cat", "stats": {"characters": 5, "words": 2}, "variants": [], "rounds": [],
    "clauses": [], "contested": [], "degraded": [], "notices": [], "seed": 0, "fingerprint": "1.a.b.c",
    "timings_ms": {},
}  # fmt: skip


class Service:
    """Answers request after request by `answers`, the last one for ever; keeps what was asked and slept."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.requests: list[httpx.Request] = []
        self.bodies: list[bytes] = []
        self.slept: list[float] = []
        self._answers = list(answers)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def client(self, **more: Any) -> CaptionServe:
        http = httpx.Client(transport=httpx.MockTransport(self))
        return CaptionServe("http://test", http_client=http, sleep=self.slept.append, **more)


def ok() -> httpx.Response:
    return httpx.Response(200, json=BODY)


def problem(status: int, slug: str, **headers: str) -> httpx.Response:
    body = {"type": f"urn:caption-serve:{slug}", "title": "t", "status": status, "detail": "Why.", "request_id": "r"}
    return httpx.Response(status, json=body, headers=headers)


async def with_app(use: Callable[[AsyncCaptionServe], Any]) -> Any:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), CLASSIC)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)))
    try:
        return await use(AsyncCaptionServe("http://test", http_client=http))
    finally:
        service.close()


async def test_every_kind_of_image_gets_the_same_caption(tmp_path: Path) -> None:
    file = tmp_path / "ä b.png"
    file.write_bytes(PNG)

    async def use(client: AsyncCaptionServe) -> list[str]:
        images = [PNG, str(file), file, io.BytesIO(PNG), picture(), np.asarray(picture())]
        return [(await client.caption(image, detail="low", prompts=["a", "b"], seed=3)).caption for image in images]

    captions = await with_app(use)
    assert len(captions) == 6
    assert len(set(captions)) == 1
    assert "brown dog" in captions[0]


async def test_every_method_takes_the_length_and_reads_where_clauses_stand() -> None:
    captioner = TellingCaptioner()
    service = CaptionService(captioner)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)))
    client = AsyncCaptionServe("http://test", http_client=http)
    body = await client.caption(PNG, max_words=9, max_characters=60, tidy=False)
    events = [event async for event in client.stream(PNG, max_words=9, max_characters=60, tidy=False)]
    lines = [line async for line in client.caption_batch([PNG], max_words=9, max_characters=60, tidy=False)]
    service.close()
    assert [length_of(options) for options in captioner.asked] == [LENGTH] * 3
    assert lines[0].result
    for answer in (body, events[-1], lines[0].result):
        assert isinstance(answer, CaptionBody)
        (clause,) = answer.clauses
        assert answer.caption[clause.start : clause.end] == clause.text == "A dog lies on a couch"
        assert (clause.source.kind, clause.source.index, clause.source.captioner) == ("variant", 2, "fake")
        assert answer.contested[0].against_score == 0.92
        assert answer.notices[0].startswith("Left out")


async def test_stream_ends_with_the_result() -> None:
    async def use(client: AsyncCaptionServe) -> list[Any]:
        return [event async for event in client.stream(PNG, detail="medium")]

    events = await with_app(use)
    assert [event.event for event in events] == ["start", *["variant"] * 4, "merge", "round", "result"]
    assert isinstance(events[-1], ResultEvent)


async def test_more_images_than_a_request_may_have_go_in_several() -> None:
    """All files were read into memory and sent at once, and 65 were refused."""

    async def use(client: AsyncCaptionServe) -> list[int]:
        images = (PNG if number % 50 else b"nothing" for number in range(130))
        lines = [line async for line in client.caption_batch(images, detail="low", strategy="basic")]
        assert sorted(line.index for line in lines if line.error) == [0, 50, 100]
        return [line.index for line in lines]

    assert sorted(await with_app(use)) == list(range(130))


async def test_batch_lines_come_with_their_errors() -> None:
    async def use(client: AsyncCaptionServe) -> dict[int, Any]:
        return {line.index: line async for line in client.caption_batch([PNG, b"nothing"], detail="low")}

    lines = await with_app(use)
    assert lines[0].result.caption
    assert lines[1].error.status == 415


async def test_errors_of_the_service_are_its_classes() -> None:
    async def use(client: AsyncCaptionServe) -> None:
        with pytest.raises(UnsupportedImage, match="none of the formats"):
            await client.caption(b"nothing")
        with pytest.raises(InvalidOption, match="detail"):
            await client.caption(PNG, detail="huge")  # type: ignore[typeddict-item]
        with pytest.raises(UrlNotAllowed):
            await client.caption("http://example.org/a.png", detail="low")
        with pytest.raises(UnsupportedImage):
            _ = [event async for event in client.stream(b"nothing")]
        assert await client.ready()

    await with_app(use)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (problem(413, "image-too-large"), ImageTooLarge),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(504, "deadline-exceeded"), DeadlineExceeded),
        (problem(422, "something-new"), InvalidOption),
        (httpx.Response(404, text="<html>"), UnexpectedAnswer),
        (httpx.Response(200, text="<html>"), UnexpectedAnswer),
    ],
)
def test_what_will_not_pass_is_raised_at_once(answer: httpx.Response, error: type[CaptionServeError]) -> None:
    service = Service(answer, ok())
    with pytest.raises(error):
        service.client().caption(PNG)
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        problem(503, "overloaded"),
        problem(429, "quota-exceeded"),
        problem(503, "generator-unavailable"),
        httpx.Response(502, text="bad gateway"),
        httpx.Response(500, text=""),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("cut"),
    ],
)
def test_what_may_pass_is_tried_again_with_the_same_body(answer: Any) -> None:
    service = Service(answer, ok())
    assert service.client().caption(io.BytesIO(PNG)).caption == "a cat"
    assert len(service.requests) == 2
    assert all(PNG in body for body in service.bodies)


def test_retry_after_is_honoured_as_number_and_date() -> None:
    import time

    service = Service(
        problem(503, "overloaded", **{"retry-after": "7"}),
        problem(503, "overloaded", **{"retry-after": formatdate(time.time() + 20, usegmt=True)}),
        ok(),
    )
    service.client().caption(PNG)
    assert 7 <= service.slept[0] <= 9
    assert 18 <= service.slept[1] <= 25


def test_pauses_grow_and_tries_are_bounded() -> None:
    service = Service(problem(503, "generator-unavailable"))
    with pytest.raises(GeneratorUnavailable, match="Why"):
        service.client(max_retries=5).caption(PNG)
    assert len(service.requests) == 6
    assert service.slept[-1] > 2 * service.slept[0]


def test_nothing_is_tried_after_the_time() -> None:
    service = Service(problem(503, "overloaded", **{"retry-after": "60"}))
    with pytest.raises(Overloaded) as caught:
        service.client(timeout_s=30).caption(PNG)
    assert service.slept == []
    assert caught.value.retry_after_s == 60


def test_key_comes_from_the_argument_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(ok())
    service.client(api_key="k1").caption(PNG)
    monkeypatch.setenv("CAPTION_SERVE_API_KEY", "k2")
    service.client().caption(PNG)
    assert [request.headers["authorization"] for request in service.requests] == ["Bearer k1", "Bearer k2"]


def test_url_and_its_options_are_sent_for_the_service_to_fetch() -> None:
    service = Service(ok())
    service.client().caption("https://example.org/a.png", seed=4, multi_round=False)
    assert json.loads(service.bodies[0]) == {"image": "https://example.org/a.png", "seed": 4, "multi_round": False}


def sse(*blocks: str) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text="".join(blocks))


START = 'event: start\ndata: {"id":"1","model":"m","strategy":"basic",\ndata: "prompts":[""],"rounds":1,"seed":0}\n\n'
RESULT = f"event: result\ndata: {json.dumps(BODY)}\n\n"
ERROR = (
    'event: error\ndata: {"type":"urn:caption-serve:quota-exceeded","title":"t","status":429,"detail":"Later.",'
    '"request_id":"r"}\n\n'
)


def test_stream_reads_comments_and_data_of_several_lines() -> None:
    events = list(Service(sse(": ping\n\n", START, ":\n\n", RESULT)).client().stream(PNG))
    assert [event.event for event in events] == ["start", "result"]


def test_stream_that_fails_raises_and_is_not_repeated() -> None:
    for blocks, error in (((START, ERROR), QuotaExceeded), ((START,), ServiceUnreachable)):
        service = Service(sse(*blocks))
        with pytest.raises(error):
            list(service.client().stream(PNG))
        assert len(service.requests) == 1


def test_stream_is_tried_again_before_it_begins() -> None:
    service = Service(problem(503, "overloaded"), sse(START, RESULT))
    assert [event.event for event in service.client().stream(PNG)] == ["start", "result"]


def test_unreadable_file_and_odd_image_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    service = Service(ok())
    with pytest.raises(FileNotFoundError):
        service.client().caption(tmp_path / "none.jpg")
    with pytest.raises(TypeError, match="an image is"):
        service.client().caption(5)
    assert service.requests == []


def test_service_that_is_not_there_is_not_ready() -> None:
    assert not Service(httpx.ConnectError("refused")).client().ready()
