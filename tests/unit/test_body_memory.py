"""Bodies of requests in progress, within the memory that is planned for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, assert_problem, echo
from tests.unit.test_chat import URI, message

SIZE = len(PNG)


@asynccontextmanager
async def api(memory: int, delay_s: float = 0.0) -> AsyncIterator[tuple[httpx.AsyncClient, CaptionService]]:
    limits = Limits(default_strategy="classic", default_detail="low", body_memory_bytes=memory)
    service = CaptionService(CaptionPipeline(RuleGenerator(echo, delay_s)), limits)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client, service
    service.close()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_without_memory_left_is_rejected_for_load(declared: bool) -> None:
    """Bodies were read before anything was admitted: 24 chats filled a pod of 6 GiB."""

    async def pieces() -> AsyncIterator[bytes]:
        yield PNG[:10]
        yield PNG[10:]

    async with api(SIZE + 20, delay_s=0.2) as (client, service):
        first = asyncio.create_task(client.post("/v1/captions", content=PNG, headers={"content-type": "image/png"}))
        while not service.bodies.used:
            await asyncio.sleep(0.01)
        body = PNG if declared else pieces()
        second = await client.post("/v1/captions", content=body, headers={"content-type": "image/png"})
        assert_problem(second, 503)
        assert "memory" in second.json()["detail"]
        assert int(second.headers["retry-after"]) <= 5
        assert (await first).status_code == 200
        assert service.bodies.used == 0
        alone = await client.post("/v1/captions", content=PNG, headers={"content-type": "image/png"})
        assert alone.status_code == 200


async def test_json_counts_with_its_copies_and_gives_back_whatever_happens() -> None:
    async with api(10_000_000, delay_s=0.1) as (client, service):
        body = {"model": "fake", "messages": message(URI)}
        running = asyncio.create_task(client.post("/v1/chat/completions", json=body))
        while not service.bodies.used:
            await asyncio.sleep(0.01)
        assert service.bodies.used > 3 * len(URI)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for content in (b"{", b"[]", b"x" * 1000):
            await client.post("/v1/captions", content=content, headers={"content-type": "application/json"})
        await asyncio.sleep(0.05)
        assert service.bodies.used == 0


async def test_a_length_that_nobody_may_send_takes_no_memory() -> None:
    """A connection that declared 900 MB and sent a byte kept everybody else out."""
    async with api(1_000_000_000) as (client, service):
        headers = {"content-type": "image/png", "content-length": "900000000"}
        refused = await client.post("/v1/captions", content=PNG, headers=headers)
        assert_problem(refused, 413)
        assert service.bodies.used == 0
