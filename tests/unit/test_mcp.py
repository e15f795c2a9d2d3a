"""The Model Context Protocol door, through the SDK's own client."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from mcp.client.client import Client

from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, TaskService
from serve_app.steps import ONLY
from serve_app.types import LEFT_OUT
from tests.unit.captioners import TellingCaptioner
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, echo
from tests.unit.test_tasks import RuleAnswerer, RuleMatchModel

IMAGE = base64.b64encode(PNG).decode()
HEADERS = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(CaptionService(CaptionPipeline(RuleGenerator(echo)))) as address:
        yield address


@contextmanager
def running(service: CaptionService, tasks: TaskService | None = None) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(service, tasks), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/mcp"
    server.should_exit = True
    thread.join(10)
    service.close()


@asynccontextmanager
async def raw(limits: Limits | None = None, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), limits)
    transport = httpx.ASGITransport(create_app(service, **more), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=HEADERS) as client:
        yield client
    service.close()


def call(**arguments: Any) -> dict[str, Any]:
    params = {"name": "caption_image", "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


async def test_agent_finds_the_tool_and_gets_a_caption(url: str) -> None:
    async with Client(url) as client:
        (tool,) = (await client.list_tools()).tools
        assert tool.name == "caption_image"
        assert "image that you cannot see" in str(tool.description)
        found = await client.call_tool(
            "caption_image", {"image": IMAGE, "detail": "low", "extra_prompts": ["the mood is"]}
        )
    assert not found.is_error
    assert found.structured_content
    assert found.content[0].text == found.structured_content["caption"]  # type: ignore[union-attr]
    assert "brown dog" in found.structured_content["caption"]
    assert found.structured_content["clauses"][0]["source"]["captioner"] == "fake"


async def test_an_agent_that_wants_to_hears_of_each_step(url: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def listen(progress: float, _: float | None, message: str | None) -> None:
        heard.append((progress, message))

    async with Client(url) as client:
        arguments = {"image": IMAGE, "detail": "low"}
        found = await client.call_tool("caption_image", arguments, progress_callback=listen)
        plain = await client.call_tool("caption_image", arguments)
        refused = await client.call_tool("caption_image", {"image": "AAAA"}, progress_callback=listen)
    assert found.structured_content == plain.structured_content
    assert [number for number, _ in heard] == list(range(1, len(heard) + 1))
    assert [heard[0][1], heard[1][1]] == ["start", "variant"]
    assert refused.is_error


async def test_an_agent_says_how_long_and_hears_what_was_left_out() -> None:
    captioner = TellingCaptioner()
    with running(CaptionService(captioner)) as address:
        async with Client(address) as client:
            found = await client.call_tool("caption_image", {"image": IMAGE, "max_words": 12, "max_characters": 90})
            small = await client.call_tool("caption_image", {"image": IMAGE, "max_characters": 19})
    assert [(options.max_words, options.max_characters) for options in captioner.asked] == [(12, 90)]
    assert found.content[0].text == "A dog lies on a couch. A cat sits by it."  # type: ignore[union-attr]
    content = found.structured_content
    assert content
    assert content["contested"][0]["against"] == "A dog lies on a couch."
    assert content["notices"][0].startswith(LEFT_OUT)
    assert (content["clauses"][1]["start"], content["clauses"][1]["end"]) == (23, 39)
    assert small.is_error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image": base64.b64encode(b"no image at all").decode()}, "none of the formats"),
        ({"image": "http://10.0.0.1/"}, "does not fetch URLs"),
        ({"image": "%%%"}, "not valid base64"),
        ({"image": IMAGE, "detail": "huge"}, "low"),
        ({}, "image"),
        ({"image": IMAGE, "extra_prompts": ["x" * 1000]}, "400 characters"),
    ],
)
async def test_what_cannot_be_captioned_is_a_tool_error(url: str, arguments: dict[str, Any], sentence: str) -> None:
    async with Client(url) as client:
        found = await client.call_tool("caption_image", arguments)
    assert found.is_error
    assert sentence in found.content[0].text  # type: ignore[union-attr]
    assert "Traceback" not in found.content[0].text  # type: ignore[union-attr]


async def test_each_request_stands_alone() -> None:
    async with raw() as client:
        answer = await client.post("/mcp", json=call(image=IMAGE, detail="low"))
    assert answer.status_code == 200
    assert "brown dog" in answer.json()["result"]["content"][0]["text"]
    assert "mcp-session-id" not in answer.headers


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_other_methods_are_405(method: str) -> None:
    async with raw() as client:
        assert (await client.request(method, "/mcp")).status_code == 405


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"null", b'{"jsonrpc": "1.0"}', b'{"a":' * 10_000, b"[" + b"1," * 100_000 + b"1]", b"\xff"],
)
async def test_malformed_messages_are_4xx(body: bytes) -> None:
    async with raw() as client:
        answer = await client.post("/mcp", content=body, headers={"content-type": "application/json"})
    assert answer.status_code // 100 == 4


async def test_unknown_methods_and_tools_are_told(url: str) -> None:
    async with raw() as client:
        unknown = await client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "nope"})
        tool = await client.post("/mcp", json={**call(), "params": {"name": "nope", "arguments": {}}})
    assert unknown.status_code < 500
    assert "error" in unknown.json()
    assert tool.status_code < 500
    assert "nope" in tool.text


async def test_large_body_is_413_before_the_tool_sees_it() -> None:
    async with raw(Limits(max_image_bytes=1000)) as client:
        answer = await client.post("/mcp", json=call(image="A" * 500_000))
    assert answer.status_code == 413
    assert answer.json()["status"] == 413


async def test_page_of_another_origin_may_not_call_it() -> None:
    async with raw(cors_origins=("https://a.example",)) as client:
        for origin, status in (("https://evil.example", 403), ("null", 403), ("https://a.example", 200)):
            answer = await client.post("/mcp", json=call(image=IMAGE), headers={"origin": origin})
            assert answer.status_code == status


async def test_leaving_cancels_the_work() -> None:
    generator = RuleGenerator(echo, delay_s=60)
    service = CaptionService(CaptionPipeline(generator))
    app = create_app(service)
    left = asyncio.Event()
    messages = [{"type": "http.request", "body": json.dumps(call(image=IMAGE)).encode(), "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    headers = [(b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream")]
    scope = {
        "type": "http", "method": "POST", "path": "/mcp", "raw_path": b"/mcp", "query_string": b"", "headers": headers,
        "root_path": "", "scheme": "http", "server": ("test", 80), "client": ("test", 1), "http_version": "1.1",
    }  # fmt: skip
    running = asyncio.create_task(app(scope, receive, send))
    while not generator.calls:
        await asyncio.sleep(0.01)
    left.set()
    await asyncio.wait_for(running, 5)
    assert generator.cancelled == 1
    service.close()


async def test_where_their_models_run_an_agent_can_ask_and_compare() -> None:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    with running(service, TaskService(service, RuleMatchModel(), RuleAnswerer())) as address:
        async with Client(address) as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            asked = await client.call_tool("answer_question", {"image": IMAGE, "question": "is there a dog?"})
            compared = await client.call_tool("match_texts", {"image": IMAGE, "texts": ["a dog", "a cat"]})
            wrong = await client.call_tool("match_texts", {"image": "AAAA", "texts": ["a dog"]})
    assert names == ["caption_image", "answer_question", "match_texts"]
    assert asked.content[0].text == "dog? yes"
    assert compared.structured_content["matches"][0]["probability"] == 0.9
    assert compared.content[0].text == "0.900 a dog\n0.100 a cat"
    assert wrong.is_error


async def test_a_page_whose_name_leads_here_is_refused() -> None:
    """DNS rebinding: such a page's `Origin` is its own `Host`, and was let in."""
    async with raw(allowed_hosts=("localhost", "127.0.0.1", "[::1]", "*.example.org")) as client:
        for host, status in (
            ("evil.example:8000", 421), ("localhost.evil.example", 421), ("example.org", 421), ("", 421),
            ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("LOCALHOST", 200),
            ("a.example.org", 200),
        ):  # fmt: skip
            headers = {"host": host, "origin": f"http://{host}"}
            assert (await client.post("/mcp", json=call(image=IMAGE), headers=headers)).status_code == status, host
        refused = await client.post("/v1/captions", files={"image": PNG}, headers={"host": "evil.example"})
        assert refused.status_code == 421
        assert "allowed_hosts" in refused.json()["detail"]


async def test_only_what_is_there_is_announced(url: str) -> None:
    async with Client(url) as client:
        capabilities = client.server_capabilities
        assert capabilities.tools is not None
        assert capabilities.prompts is None
        assert capabilities.resources is None


async def test_a_full_service_still_shakes_hands_and_the_tool_says_that_it_is_full() -> None:
    """`initialize` and the list of tools were 503, so that agents took the server for broken."""
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), Limits(), lambda _: 1)
    with service.admission.of(ONLY).admit(1), running(service) as address:
        async with Client(address) as client:
            assert (await client.list_tools()).tools
            found = await client.call_tool("caption_image", {"image": IMAGE})
    assert found.is_error
    assert "full" in str(found.content[0])
