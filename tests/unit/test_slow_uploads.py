"""Bodies that come slowly, and headers that strangers may not use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serve_app.deployments.proxy import middlewares
from serve_app.http import incoming
from tests.unit.test_api import PNG, api, assert_problem


async def drip(data: bytes, pause_s: float) -> AsyncIterator[bytes]:
    for place in range(0, len(data), 8):
        yield data[place : place + 8]
        await asyncio.sleep(pause_s)


async def test_a_body_that_drips_is_408_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte every five seconds held a place of the ingress for eleven minutes."""
    monkeypatch.setattr(incoming, "GRACE_S", 0.2)
    headers = {"content-type": "image/png"}
    async with api() as (client, _):
        late = await client.post("/v1/captions", content=drip(PNG, 0.05), headers=headers)
        assert_problem(late, 408)
        monkeypatch.setattr(incoming, "LEAST_BYTES_PER_S", 10)  # what comes fast enough may take longer
        assert (await client.post("/v1/captions", content=drip(PNG, 0.02), headers=headers)).status_code == 200


async def test_many_slow_bodies_leave_others_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "SLOW_S", 0.05)
    monkeypatch.setattr(incoming, "MOST_SLOW", 5)
    headers = {"content-type": "image/png"}
    async with api() as (client, _):
        slow = [
            asyncio.create_task(client.post("/v1/captions", content=drip(PNG, 1), headers=headers)) for _ in range(20)
        ]
        await asyncio.sleep(0.4)  # no other request has to come: none does while the slow ones have all places
        ended = [task.result().status_code for task in slow if task.done()]
        assert ended == [408] * 15
        assert (await client.post("/v1/captions", content=PNG, headers=headers)).status_code == 200
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_serve_takes_no_orders_from_strangers() -> None:
    """`x-request-timeout-seconds: 0` lifted the time limit of a request for anybody."""

    async def told(request: Request) -> JSONResponse:
        return JSONResponse({name: value for name, value in request.headers.items() if name.startswith("x-")})

    app = Starlette(routes=[Route("/", told)], middleware=middlewares())
    sent = {
        "x-request-timeout-seconds": "0",
        "x-request-disconnect-disabled": "?1",
        "x-request-id": "a",
        "x-other": "b",
    }
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        assert (await client.get("/", headers=sent)).json() == {"x-request-id": "a", "x-other": "b"}
