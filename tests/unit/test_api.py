"""The HTTP contract over a rule-driven generator, in process."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from serve_app.contract import CaptionBody
from serve_app.errors import DeadlineExceeded, GenerationFailed, GeneratorUnavailable, Overloaded, PromptTooLong
from serve_app.http import create_app
from serve_app.http.description import CAPTION
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService
from tests.pictures import encoded, hostile, picture
from tests.unit.captioners import LENGTH, TellingCaptioner, length_of
from tests.unit.fakes import CLASSIC, RuleGenerator

PNG = encoded(picture(), "PNG")
SENTENCE = "a brown dog and a white cat lie together on the old green couch near a window"


def echo(prompt: str) -> str:
    return f"{prompt} {SENTENCE}"


@asynccontextmanager
async def api(
    rule: Callable[[str], str | Exception] = echo, limits: Limits | None = None, delay_s: float = 0.0
) -> AsyncIterator[tuple[httpx.AsyncClient, RuleGenerator]]:
    generator = RuleGenerator(rule, delay_s)
    service = CaptionService(CaptionPipeline(generator), limits or CLASSIC)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client, generator
    service.close()


@asynccontextmanager
async def told() -> AsyncIterator[tuple[httpx.AsyncClient, TellingCaptioner]]:
    captioner = TellingCaptioner()
    service = CaptionService(captioner)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test") as client:
        yield client, captioner
    service.close()


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) - {"error"} == {"type", "title", "status", "detail", "request_id"}
    if "error" in body:
        assert body["error"]["message"] == body["detail"]
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return dict(body)


async def test_form_raw_and_json_bodies_give_the_same_caption() -> None:
    text = base64.b64encode(PNG).decode()
    async with api() as (client, _):
        answers = [
            await client.post("/v1/captions", files={"image": PNG}, data={"detail": "low"}),
            await client.post("/v1/captions?detail=low", content=PNG, headers={"content-type": "image/png"}),
            await client.post("/v1/captions?detail=low", content=PNG, headers={"content-type": "text/html;"[:0]}),
            await client.post("/v1/captions", json={"image": text, "detail": "low"}),
            await client.post("/v1/captions", json={"image": f"data:image/png;base64,{text}", "detail": "low"}),
        ]
    assert [answer.status_code for answer in answers] == [200] * 5
    captions = {answer.json()["caption"] for answer in answers}
    assert len(captions) == 1


async def test_answer_has_every_field_of_the_contract() -> None:
    async with api() as (client, _):
        response = await client.post("/v1/captions", files={"image": PNG}, headers={"x-request-id": "me-1"})
    body = response.json()
    assert set(body) == {
        "id", "model", "caption", "stats", "variants", "rounds", "clauses", "contested", "answers", "degraded",
        "notices", "seed", "fingerprint", "timings_ms",
    }  # fmt: skip
    assert body["id"] == response.headers["x-request-id"] == "me-1"
    assert body["stats"] == {"characters": len(body["caption"]), "words": len(body["caption"].split())}
    assert len(body["variants"]) == 4
    assert set(body["variants"][0]) == {"prompt", "text", "captioner", "score"}
    assert set(body["rounds"][0]) == {"round", "text", "accepted"}
    assert set(body["clauses"][0]) == {"text", "start", "end", "statement", "score", "source", "whole"}
    assert set(body["clauses"][0]["source"]) == {"kind", "index", "captioner", "prompt"}
    for clause in body["clauses"]:
        assert body["caption"][clause["start"] : clause["end"]] == clause["text"]
        assert clause["source"]["captioner"] == body["model"]
    assert {"intake", "variants", "merge", "rounds", "total"} <= set(body["timings_ms"])


@pytest.mark.parametrize(
    ("options", "rounds"),
    [({}, 2), ({"detail": "high"}, 2), ({"detail": "medium"}, 1), ({"detail": "low"}, 0), ({"multi_round": "false"}, 0),
     ({"rounds": "2"}, 1), ({"rounds": "1", "detail": "high"}, 0), ({"multi_round": "true", "detail": "medium"}, 1)],
)  # fmt: skip
async def test_detail_rounds_and_multi_round(options: dict[str, str], rounds: int) -> None:
    async with api(lambda prompt: echo(prompt) + " one two three four five six seven eight nine") as (client, _):
        response = await client.post("/v1/captions", files={"image": PNG}, data=options)
    assert len(response.json()["rounds"]) == rounds


@pytest.mark.parametrize("detail", ["low", "medium", "high"])
async def test_no_detail_level_has_a_smaller_share_of_the_variants(detail: str) -> None:
    async with api() as (client, generator):
        await client.post("/v1/captions", files={"image": PNG}, data={"detail": detail})
    assert len(generator.calls[0]) == 4


@pytest.mark.parametrize(
    ("options", "told"),
    [({"detail": "huge"}, "detail"), ({"rounds": "0"}, "rounds"), ({"rounds": "4"}, "rounds"),
     ({"rounds": "x"}, "rounds"),
     ({"seed": "-1"}, "seed"), ({"seed": str(2**63)}, "seed"), ({"timeout_s": "0"}, "timeout_s"),
     ({"timeout_s": "nan"}, "timeout_s"), ({"timeout_s": "1e9"}, "timeout_s"), ({"strategy": "magic"}, "strategy"),
     ({"max_words": "0"}, "max_words"), ({"max_words": "few"}, "max_words"), ({"max_characters": "19"}, "max_char"),
     ({"tidy": "perhaps"}, "tidy"), ({"colour": "red"}, "no such option"),
     ({"multi_round": "maybe"}, "multi_round"), ({"multi_round": "false", "rounds": "2"}, "multi_round"),
     ({"prompts": [" "]}, "prompts"), ({"prompts": ["p"] * 9}, "prompts"), ({"prompts": ["x" * 401]}, "prompts")],
)  # fmt: skip
async def test_bad_options_are_422_and_named(options: dict[str, Any], told: str) -> None:
    async with api() as (client, generator):
        response = await client.post("/v1/captions", files={"image": PNG}, data=options)
    assert told in assert_problem(response, 422)["detail"]
    assert generator.calls == []


async def test_clauses_and_contested_statements_are_told_with_their_supports() -> None:
    async with told() as (client, _):
        body = (await client.post("/v1/captions", files={"image": PNG})).json()
    assert body["clauses"][1] == {
        "text": "A cat sits by it", "start": 23, "end": 39, "statement": "A cat sits by it.", "score": 0.92,
        "source": {"kind": "extension", "index": 1, "captioner": "another", "prompt": "describe it"}, "whole": False,
    }  # fmt: skip
    sources = [clause["source"] for clause in body["clauses"]]
    assert [source["captioner"] for source in sources] == ["fake", "another", "fake"], "the model where none is named"
    assert (sources[2]["index"], sources[2]["prompt"]) == (None, None)
    assert body["contested"] == [
        {"text": "The dog stands.", "score": 0.31, "against": "A dog lies on a couch.", "against_score": 0.92}
    ]
    assert body["notices"] == ["It is a drawing."]


@pytest.mark.parametrize("door", ["form", "query", "json", "batch", "events"])
async def test_length_and_tidiness_reach_the_captioner(door: str) -> None:
    fields = {name: str(value).lower() for name, value in LENGTH.items()}
    form: dict[str, Any] = {"files": {"image": PNG}, "data": fields}
    async with told() as (client, captioner):
        match door:
            case "form":
                answer = await client.post("/v1/captions", **form)
            case "query":
                kind = {"content-type": "image/png"}
                answer = await client.post("/v1/captions", params=fields, content=PNG, headers=kind)
            case "json":
                answer = await client.post("/v1/captions", json={"image": base64.b64encode(PNG).decode(), **LENGTH})
            case "batch":
                answer = await client.post("/v1/captions/batch", **form)
            case _:
                answer = await client.post("/v1/captions", **form, headers={"accept": "text/event-stream"})
    assert answer.status_code == 200
    assert "A dog lies on a couch." in answer.text
    assert "There is a window" not in answer.text
    assert [length_of(options) for options in captioner.asked] == [LENGTH]


async def test_without_options_captions_are_tidy_and_as_long_as_they_come() -> None:
    async with told() as (client, captioner):
        await client.post("/v1/captions", files={"image": PNG})
    assert length_of(captioner.asked[0]) == {"max_words": None, "max_characters": None, "tidy": True}


def test_the_example_of_the_description_is_an_answer() -> None:
    example = CaptionBody.model_validate(CAPTION)
    assert len(example.caption) == example.stats.characters
    assert len(example.caption.split()) == example.stats.words
    for clause in example.clauses:
        assert example.caption[clause.start : clause.end] == clause.text
        assert clause.source.index
        assert example.variants[clause.source.index - 1].prompt == clause.source.prompt


async def test_repeated_option_is_refused() -> None:
    async with api() as (client, _):
        response = await client.post("/v1/captions?seed=1&seed=2", content=PNG, headers={"content-type": "image/png"})
    assert_problem(response, 422)


async def test_seed_and_prompts_reach_the_generator() -> None:
    async with api() as (client, generator):
        data = {"prompts": ["x y", "z"], "seed": "7", "detail": "low"}
        first = await client.post("/v1/captions", files={"image": PNG}, data=data)
    assert first.json()["seed"] == 7
    assert [job.prompt for job in generator.calls[0]] == ["x y", "z"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"{}", b'{"image": 1}', b'{"image": ""}', b'{"image": "!!!"}',
     b'{"image": "data:image/png,abc"}', b'{"image": "data:image/png;base64"}', b"[" * 100_000, b"\xff\xfe",
     b'{"image": null}'],
)  # fmt: skip
async def test_broken_json_is_400(body: bytes) -> None:
    async with api() as (client, _):
        response = await client.post("/v1/captions", content=body, headers={"content-type": "application/json"})
    assert_problem(response, 400)


async def test_url_is_refused_in_one_sentence() -> None:
    async with api() as (client, _):
        response = await client.post("/v1/captions", json={"image": "https://example.com/a.jpg"})
    assert "does not fetch URLs" in assert_problem(response, 422)["detail"]


async def test_form_without_an_image_and_broken_forms_are_400() -> None:
    async with api() as (client, _):
        missing = await client.post("/v1/captions", files={"picture": PNG})
        text = await client.post("/v1/captions", files={"x": b""}, data={"image": "hello"})
        two = await client.post("/v1/captions", files=[("image", PNG), ("image", PNG)])
        for boundary in ("", "; boundary=", "; boundary=abc"):
            broken = await client.post(
                "/v1/captions", content=b"--x\r\nnonsense", headers={"content-type": f"multipart/form-data{boundary}"}
            )
            assert_problem(broken, 400)
    assert_problem(missing, 400)
    assert_problem(text, 400)
    assert_problem(two, 400)


async def test_body_of_another_type_is_415() -> None:
    async with api() as (client, _):
        response = await client.post("/v1/captions", content=PNG, headers={"content-type": "text/plain"})
    assert_problem(response, 415)


@pytest.mark.parametrize("form", ["raw", "form", "json"])
async def test_byte_cap_ends_the_reading(form: str) -> None:
    """A body beyond the cap must not be read to its end before it is refused."""
    sent = 0
    chunk = b"x" * 65_536

    async def endless(head: bytes) -> AsyncIterator[bytes]:
        nonlocal sent
        yield head
        for _ in range(1000):
            sent += len(chunk)
            yield chunk

    kinds = {"raw": "image/png", "form": "multipart/form-data; boundary=b", "json": "application/json"}
    heads = {
        "raw": b"",
        "form": b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n',
        "json": b'{"image": "',
    }
    limits = Limits(max_image_bytes=200_000)
    async with api(limits=limits) as (client, _):
        response = await client.post(
            "/v1/captions", content=endless(heads[form]), headers={"content-type": kinds[form]}
        )
    assert "200000 bytes" in assert_problem(response, 413)["detail"]
    assert sent < 1_000_000


@pytest.mark.parametrize("name", hostile())
async def test_hostile_files_over_http(name: str) -> None:
    data, wanted = hostile()[name]
    async with api() as (client, _):
        response = await client.post(
            "/v1/captions", files={"image": ("photo.jpg", data, "image/jpeg")}, data={"detail": "low"}
        )
    assert response.status_code in wanted
    if response.status_code != 200:
        assert_problem(response, response.status_code)


@pytest.mark.parametrize(
    ("error", "status"),
    [(GenerationFailed("It failed."), 500), (Overloaded("Full."), 503), (GeneratorUnavailable("Gone."), 503),
     (DeadlineExceeded("Late."), 504), (PromptTooLong("Long."), 422)],
)  # fmt: skip
async def test_errors_of_the_service_have_their_status(error: Exception, status: int) -> None:
    async with api(lambda _: error) as (client, _):
        response = await client.post("/v1/captions", files={"image": PNG})
    assert_problem(response, status)
    assert ("retry-after" in response.headers) == (status == 503)


async def test_bug_is_a_problem_document_without_a_traceback() -> None:
    def rule(prompt: str) -> str:
        raise ZeroDivisionError("secret")

    async with api(rule) as (client, _):
        response = await client.post("/v1/captions", files={"image": PNG})
    assert "secret" not in response.text
    assert response.status_code == 500
    assert response.json()["type"] == "urn:caption-serve:internal"


async def test_unknown_path_and_method_are_problem_documents() -> None:
    async with api() as (client, _):
        assert_problem(await client.get("/v2/nothing"), 404)
        wrong = await client.get("/v1/captions")
    assert_problem(wrong, 405)
    assert wrong.headers["allow"] == "POST"


@pytest.mark.parametrize(("given", "kept"), [("abc-1", True), ("x" * 200, False), ("with space", False)])
async def test_request_id_is_taken_when_sane(given: str, kept: bool) -> None:
    async with api() as (client, _):
        response = await client.get("/healthz", headers={"x-request-id": given})
    assert (response.headers["x-request-id"] == given) is kept


async def test_ready_only_when_a_generate_works() -> None:
    broken = True

    def rule(prompt: str) -> str | Exception:
        return GeneratorUnavailable("No caption replica could be reached.") if broken else "a dog"

    async with api(rule) as (client, generator):
        assert_problem(await client.get("/readyz"), 503)
        assert (await client.get("/healthz")).text == "ok"
        broken = False
        assert (await client.get("/readyz")).text == "ready"
        asked = len(generator.calls)
        await client.get("/readyz")
        assert len(generator.calls) == asked, "a fresh success is not probed again"


async def test_client_that_leaves_cancels_its_generate() -> None:
    generator = RuleGenerator(echo, delay_s=30)
    service = CaptionService(CaptionPipeline(generator))
    app = create_app(service)
    messages = [{"type": "http.request", "body": PNG, "more_body": False}]
    started = asyncio.Event()

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        while not generator.calls:
            await asyncio.sleep(0.01)
        started.set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-type", b"image/png")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/captions",
        "raw_path": b"",
        "query_string": b"",
        "headers": headers,
    }
    async with asyncio.timeout(5):
        await app(scope, receive, send)
    assert started.is_set()
    assert generator.cancelled == 1
    service.close()


async def test_openapi_describes_the_three_bodies_and_the_problems() -> None:
    async with api() as (client, _):
        spec = (await client.get("/openapi.json")).json()
        assert (await client.get("/docs")).status_code == 200
    post = spec["paths"]["/v1/captions"]["post"]
    assert set(post["requestBody"]["content"]) == {"multipart/form-data", "image/*", "application/json"}
    assert {"200", "400", "413", "415", "422", "503", "504"} <= set(post["responses"])
    json.dumps(spec)


async def test_generator_that_does_not_come_up_is_out_of_time_and_not_a_hang() -> None:
    class Absent(RuleGenerator):
        async def info(self) -> Any:
            await asyncio.sleep(30)

    service = CaptionService(CaptionPipeline(Absent(echo)))
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client, asyncio.timeout(5):
        response = await client.post("/v1/captions", files={"image": PNG}, data={"timeout_s": "0.1"})
    service.close()
    assert_problem(response, 504)


async def test_small_things_of_http() -> None:
    """HEAD of the health checks was 405, a slash behind led elsewhere, and a refused event stream was sent."""
    async with api() as (client, _):
        for path in ("/healthz", "/readyz"):
            assert (await client.head(path)).status_code == 200
        assert_problem(await client.post("/v1/captions/", files={"image": PNG}), 404)
        for accept, kind in (
            ("text/event-stream;q=0, */*", "application/json"),
            ("text/event-stream; q=0.5", "text/event-stream"),
        ):
            answer = await client.post("/v1/captions", files={"image": PNG}, headers={"accept": accept})
            assert answer.headers["content-type"].startswith(kind)
