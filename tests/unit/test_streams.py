"""Answers in pieces: events of one caption, lines of a batch."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from serve_app.contract import EVENT
from serve_app.errors import GenerationFailed, GeneratorUnavailable, PromptTooLong
from serve_app.limits import Limits
from tests.unit.test_api import PNG, api, assert_problem, echo

EVENTS = {"accept": "text/event-stream"}


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


async def test_events_come_in_order_and_the_last_is_the_plain_answer() -> None:
    async with api() as (client, _):
        streamed = await client.post("/v1/captions", files={"image": PNG}, headers={**EVENTS, "x-request-id": "e-1"})
        plain = (await client.post("/v1/captions", files={"image": PNG}, headers={"x-request-id": "e-1"})).json()
    assert streamed.headers["content-type"].startswith("text/event-stream")
    events = events_of(streamed.text)
    assert [name for name, _ in events] == ["start", *["variant"] * 4, "merge", "round", "round", "result"]
    for name, data in events:
        EVENT.validate_python({"event": name, **data})
    start, result = events[0][1], events[-1][1]
    assert start["id"] == result["id"] == "e-1"
    assert start["prompts"] == [variant["prompt"] for variant in plain["variants"]]
    assert sorted(data["index"] for name, data in events if name == "variant") == [1, 2, 3, 4]
    assert {**result, "timings_ms": 0} == {**plain, "timings_ms": 0}


async def test_event_comes_before_the_slower_variants_are_done() -> None:
    from serve_app.pipeline import CaptionPipeline
    from serve_app.service import CaptionService
    from tests.unit.fakes import RuleGenerator

    service = CaptionService(CaptionPipeline(RuleGenerator(echo, delay_s=60)))
    events = service.events(PNG, {})
    first = await asyncio.wait_for(anext(events), 5)
    assert first.event == "start"
    await events.aclose()
    assert service.admission.admitted == 0
    service.close()


async def test_leaving_the_events_cancels_the_work() -> None:
    from serve_app.pipeline import CaptionPipeline
    from serve_app.service import CaptionService
    from tests.unit.fakes import CLASSIC, RuleGenerator

    generator = RuleGenerator(echo, delay_s=60)
    service = CaptionService(CaptionPipeline(generator), CLASSIC)
    events = service.events(PNG, {})
    await anext(events)
    await asyncio.sleep(0.05)
    await events.aclose()
    assert generator.cancelled == 1
    service.close()


async def test_failed_variant_is_an_empty_event_and_named_in_the_result() -> None:
    def rule(prompt: str) -> str | Exception:
        return GenerationFailed("It broke.") if prompt.startswith("a detailed") else echo(prompt)

    async with api(rule) as (client, _):
        events = events_of((await client.post("/v1/captions", files={"image": PNG}, headers=EVENTS)).text)
    texts = {data["prompt"]: data["text"] for name, data in events if name == "variant"}
    assert texts["a detailed photography of"] == ""
    assert all(text for prompt, text in texts.items() if prompt != "a detailed photography of")
    assert events[-1][1]["degraded"] == ["variant 2: It broke."]


async def test_short_merge_tells_of_its_extension() -> None:
    def rule(prompt: str) -> str:
        longer = "a dog and a cat on a big green couch near the window of a room in a house"
        return longer if prompt.startswith(("Provide", "Describe", "Write")) else f"{prompt} a dog on the couch there"

    async with api(rule) as (client, _):
        events = events_of((await client.post("/v1/captions", files={"image": PNG}, headers=EVENTS)).text)
    (extension,) = [data for name, data in events if name == "extension"]
    assert extension["accepted"] is True
    assert extension["text"].startswith("A dog and a cat on a big green couch")


@pytest.mark.parametrize(
    ("files", "data", "status"),
    [({"image": b"no image"}, {}, 415), ({"image": PNG}, {"detail": "huge"}, 422), ({"other": PNG}, {}, 400)],
)
async def test_errors_before_the_start_are_ordinary_answers(files: Any, data: Any, status: int) -> None:
    async with api() as (client, _):
        assert_problem(await client.post("/v1/captions", files=files, data=data, headers=EVENTS), status)


@pytest.mark.parametrize(
    ("error", "status"), [(GeneratorUnavailable("Nobody."), 503), (PromptTooLong("Long."), 422), (ValueError("x"), 500)]
)
async def test_error_after_the_start_is_the_last_event(error: Exception, status: int) -> None:
    def rule(prompt: str) -> str | Exception:
        if isinstance(error, ValueError):
            raise error
        return error

    async with api(rule) as (client, _):
        response = await client.post("/v1/captions", files={"image": PNG}, headers=EVENTS)
    assert response.status_code == 200
    name, data = events_of(response.text)[-1]
    assert name == "error"
    assert data["status"] == status
    assert data["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text


async def test_extra_prompt_runs_beside_the_presets() -> None:
    async with api() as (client, _):
        answer = await client.post("/v1/captions", files={"image": PNG}, data={"extra_prompts": "the weather is"})
    prompts = [variant["prompt"] for variant in answer.json()["variants"]]
    assert len(prompts) == 5
    assert prompts[-1] == "the weather is"


def lines_of(response: httpx.Response) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert len({line["index"] for line in lines}) == len(lines)
    return {line["index"]: line for line in lines}


async def test_batch_answers_every_image_and_a_bad_one_is_its_line() -> None:
    files = [("image", ("a.png", PNG)), ("image", ("b.jpg", b"nothing")), ("image", ("c.png", PNG))]
    async with api() as (client, _):
        response = await client.post("/v1/captions/batch", files=files, data={"detail": "low"})
        alone = await client.post("/v1/captions", files={"image": PNG}, data={"detail": "low"})
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = lines_of(response)
    assert [lines[index]["name"] for index in range(3)] == ["a.png", "b.jpg", "c.png"]
    assert lines[0]["result"]["caption"] == lines[2]["result"]["caption"] == alone.json()["caption"]
    assert lines[1]["result"] is None
    assert lines[1]["error"]["status"] == 415


async def test_batch_is_bounded_in_images_and_bytes() -> None:
    limits = Limits(max_batch_images=2, max_batch_bytes=1_000_000)
    async with api(limits=limits) as (client, _):
        many = [("image", (f"{n}.png", PNG)) for n in range(3)]
        far_more = [("image", (f"{n}.png", PNG)) for n in range(30)]
        large = [("image", ("a.png", bytes(1_500_000)))]
        for files in (many, far_more, large):
            problem = assert_problem(await client.post("/v1/captions/batch", files=files), 413)
            assert "batch" in problem["detail"]


async def test_batch_refuses_bad_options_and_bodies_at_once() -> None:
    files = [("image", ("a.png", PNG))]
    async with api() as (client, _):
        assert_problem(await client.post("/v1/captions/batch", files=files, data={"detail": "huge"}), 422)
        assert_problem(await client.post("/v1/captions/batch", files={"other": PNG}), 400)
        assert_problem(await client.post("/v1/captions/batch", json={"image": "x"}), 415)


async def test_batch_waits_for_room_instead_of_failing() -> None:
    from serve_app.http import create_app
    from serve_app.pipeline import CaptionPipeline
    from serve_app.service import CaptionService
    from tests.unit.fakes import RuleGenerator

    service = CaptionService(CaptionPipeline(RuleGenerator(echo, delay_s=0.02)), capacity=lambda _: 1)
    transport = httpx.ASGITransport(create_app(service))
    files = [("image", (f"{n}.png", PNG)) for n in range(3)]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        lines = lines_of(await client.post("/v1/captions/batch", files=files, data={"detail": "low"}))
    assert all(line["result"] for line in lines.values()), lines
    service.close()


async def test_description_names_every_event_and_shows_examples() -> None:
    async with api() as (client, _):
        schema = (await client.get("/openapi.json")).json()
    names = {"StartEvent", "VariantEvent", "MergeEvent", "ExtensionEvent", "RoundEvent", "ResultEvent", "ErrorEvent"}
    assert names <= set(schema["components"]["schemas"])
    captions = schema["paths"]["/v1/captions"]["post"]
    assert captions["requestBody"]["content"]["application/json"]["example"]
    assert captions["responses"]["413"]["content"]["application/problem+json"]["example"]["status"] == 413
    assert "#/$defs/" not in json.dumps(schema)


async def test_parts_of_a_form_without_a_file_name_are_images() -> None:
    """They were dropped from a batch: two images, one line."""
    names = [b'; filename="a.png"', b"", b"; filename*=utf-8''%C3%A9.png"]
    body = b"".join(
        b'--X\r\nContent-Disposition: form-data; name="image"' + name + b"\r\n\r\n" + PNG + b"\r\n" for name in names
    )
    headers = {"content-type": "multipart/form-data; boundary=X"}
    async with api() as (client, _):
        many = await client.post("/v1/captions/batch?detail=low", content=body + b"--X--\r\n", headers=headers)
        alone = body[body.index(b"--X", 3) : body.rindex(b"--X")] + b"--X--\r\n"
        one = await client.post("/v1/captions?detail=low", content=alone, headers=headers)
    lines = lines_of(many)
    assert [lines[index]["name"] for index in range(3)] == ["a.png", None, "é.png"]
    assert all(line["result"] for line in lines.values())
    assert one.status_code == 200
