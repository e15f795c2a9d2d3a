"""Captions that outlive their request, on both kinds of storage."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from serve_app.errors import InvalidOption
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, KeyStore, jobs
from serve_app.service.fetch import Fetcher
from serve_app.service.job_store import store_of
from serve_app.service.jobs import Jobs
from serve_app.service.webhooks import Webhooks
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, assert_problem, echo
from tests.unit.test_keys import key_file, redis_url  # noqa: F401

ASYNC = {"prefer": "respond-async"}
LIMITS = Limits(default_strategy="classic", default_detail="low")
FORM: dict[str, Any] = {"files": {"image": PNG}, "headers": ASYNC}


@pytest.fixture(params=["directory", "redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("redis_url")) if request.param == "redis" else str(tmp_path / "jobs")


@asynccontextmanager
async def replica(
    place: str | None,
    delay_s: float = 0.0,
    rows: float = 1e9,
    limits: Limits = LIMITS,
    secret: str | None = None,
    **more: Any,
) -> AsyncIterator[tuple[httpx.AsyncClient, Jobs]]:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo, delay_s)), limits, lambda _: rows)
    found = Jobs(service, store_of(place or "/none", limits.job_kept_s), Webhooks(Fetcher(), secret))
    app = create_app(service, jobs=None if place is None else found, **more)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client, found
    await found.stop()
    service.close()


async def ended(client: httpx.AsyncClient, address: str, **more: Any) -> dict[str, Any]:
    for _ in range(200):
        body: dict[str, Any] = (await client.get(address, **more)).json()
        if body["status"] not in ("queued", "running"):
            return body
        await asyncio.sleep(0.05)
    raise AssertionError(body)


async def test_an_id_at_once_and_the_caption_later(place: str) -> None:
    async with replica(place, delay_s=0.2) as (client, _):
        plain = (await client.post("/v1/captions", files={"image": PNG})).json()
        answer = await client.post("/v1/captions", **FORM)
        assert (answer.status_code, answer.headers["preference-applied"]) == (202, "respond-async")
        assert answer.json()["status"] == "queued"
        address = answer.headers["location"]
        assert (await client.get(address)).json()["status"] in ("queued", "running")
        body = await ended(client, address)
        assert (body["status"], body["result"]["caption"]) == ("done", plain["caption"])
        broken = await client.post("/v1/captions", files={"image": b"Dear diary"}, headers=ASYNC)
        failed = await ended(client, broken.headers["location"])
        assert (failed["status"], failed["error"]["type"], failed["error"]["status"]) == (
            "failed",
            "unsupported-image",
            415,
        )
        assert_problem(await client.post("/v1/captions?detail=huge", **FORM), 422)
        for unknown in ("0" * 32, "nonsense", "..%2f..%2fetc"):
            assert_problem(await client.get(f"/v1/captions/{unknown}"), 404)


async def test_the_address_of_a_caption_says_all_that_it_may_be_asked_with(tmp_path: Path) -> None:
    """Starlette names the methods of one route only."""
    async with replica(str(tmp_path)) as (client, _):
        answer = await client.options("/v1/captions/" + "0" * 32)
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET")
        assert (await client.delete("/v1/captions")).headers["allow"] == "POST"
        assert (await client.options("/v1/captions/batch")).headers["allow"] == "POST"


async def test_without_a_storage_the_answer_comes_at_once() -> None:
    async with replica(None) as (client, _):
        answer = await client.post("/v1/captions", **FORM)
        assert (answer.status_code, "caption" in answer.json()) == (200, True)
        assert "job_store" in assert_problem(await client.get("/v1/captions/" + "0" * 32), 404)["detail"]


async def test_another_replica_takes_what_a_lost_one_left(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LEASE_S", 0.3)
    monkeypatch.setattr(jobs, "LOOK_S", 0.1)
    async with replica(place, delay_s=60) as (client, _):
        address = (await client.post("/v1/captions", **FORM)).headers["location"]
        await asyncio.sleep(0.1)
        assert (await client.get(address)).json()["status"] == "running"
    async with replica(place) as (client, found):
        found.start()
        assert (await ended(client, address))["status"] == "done"


async def test_a_job_is_run_once_by_replicas_that_all_look(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOOK_S", 0.02)
    async with replica(place, delay_s=0.3) as (client, first), replica(place, delay_s=0.3) as (_, second):
        second.start()
        addresses = [(await client.post("/v1/captions", **FORM)).headers["location"] for _ in range(4)]
        await asyncio.sleep(0.1)
        assert len(first._running) + len(second._running) == 4
        assert {(await ended(client, address))["status"] for address in addresses} == {"done"}


async def test_a_job_can_be_ended(place: str) -> None:
    async with replica(place, delay_s=60) as (client, found):
        address = (await client.post("/v1/captions", **FORM)).headers["location"]
        assert (await client.delete(address)).json()["status"] == "cancelled"
        assert (await client.get(address)).json()["status"] == "cancelled"
        while found._running:
            await asyncio.sleep(0.02)


async def test_a_full_service_accepts_what_may_wait(place: str) -> None:
    async with replica(place, delay_s=0.3, rows=33) as (client, _):
        running = asyncio.create_task(client.post("/v1/captions", files={"image": PNG}))
        await asyncio.sleep(0.1)
        assert_problem(await client.post("/v1/captions", files={"image": PNG}), 503)
        answer = await client.post("/v1/captions", **FORM)
        assert (answer.status_code, (await running).status_code) == (202, 200)
        assert (await ended(client, answer.headers["location"]))["status"] == "done"


async def test_more_jobs_than_fit_are_done_one_after_the_other(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next ones waited until somebody looked for jobs again."""
    monkeypatch.setattr(jobs, "AT_ONCE", 2)
    monkeypatch.setattr(jobs, "LOOK_S", 3600)
    async with replica(place, delay_s=0.02) as (client, _):
        addresses = [(await client.post("/v1/captions", **FORM)).headers["location"] for _ in range(8)]
        assert {(await ended(client, address))["status"] for address in addresses} == {"done"}


async def test_a_replica_passes_over_what_others_have(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tried the oldest jobs only, which might all be another one's."""
    monkeypatch.setattr(jobs, "AT_ONCE", 2)
    monkeypatch.setattr(jobs, "LOOK_S", 0.05)
    async with replica(place, delay_s=60) as (client, first), replica(place, delay_s=60) as (_, second):
        for _ in range(4):
            await client.post("/v1/captions", **FORM)
        second.start()
        while len(first._running) + len(second._running) < 4:
            await asyncio.sleep(0.02)
        assert not first._running.keys() & second._running.keys()
        await second.stop()


async def test_jobs_leave_half_of_the_capacity_to_requests(place: str) -> None:
    async with replica(place, delay_s=0.3, rows=100) as (client, _):
        addresses = [(await client.post("/v1/captions", **FORM)).headers["location"] for _ in range(4)]
        await asyncio.sleep(0.05)
        assert (await client.post("/v1/captions", files={"image": PNG})).status_code == 200
        assert {(await ended(client, address))["status"] for address in addresses} == {"done"}


@pytest.mark.parametrize(("priority", "status"), [("u=7", 503), ("i, u=7;x", 503), ("u=3", 200), ("u=77", 200)])
async def test_background_work_leaves_half_of_the_capacity_over_http_too(priority: str, status: int) -> None:
    async with replica(None, delay_s=0.3, rows=100) as (client, _):
        first = asyncio.create_task(client.post("/v1/captions", files={"image": PNG}))
        await asyncio.sleep(0.1)
        answer = await client.post("/v1/captions", files={"image": PNG}, headers={"priority": priority})
        assert (answer.status_code, (await first).status_code) == (status, 200)


async def test_a_job_is_its_key_s(place: str, tmp_path: Path) -> None:
    file, (alice, bob) = key_file(tmp_path, "alice", "bob")
    limits = LIMITS.model_copy(update={"key_rows_per_minute": 40})
    mine, other = {"x-api-key": alice}, {"x-api-key": bob}
    async with replica(place, limits=limits, keys=KeyStore(str(file))) as (client, _):
        answer = await client.post("/v1/captions", files={"image": PNG}, headers={**ASYNC, **mine})
        address = answer.headers["location"]
        assert_problem(await client.get(address), 401)
        assert_problem(await client.get(address, headers=other), 404)
        assert (await ended(client, address, headers=mine))["status"] == "done"
        again = await client.post("/v1/captions", files={"image": PNG}, headers={**ASYNC, **mine})
        assert_problem(again, 429)


async def test_a_storage_that_fails_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in ("redis://127.0.0.1:1/0", str(tmp_path / "file" / "jobs")):
        async with replica(place) as (client, _):
            refused = await client.post("/v1/captions", **FORM)
            assert "cannot be stored" in assert_problem(refused, 503)["detail"]


SECRET = "whsec_" + base64.b64encode(b"twenty-four bytes at least").decode()


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[tuple[str, list[tuple[dict[str, str], str]]]]:
    """A caller's server, that answers with these statuses one after the other, the last one for ever; what it got."""
    left, got = list(statuses), list[tuple[dict[str, str], str]]()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()[1:]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        got.append((headers, (await reader.readexactly(int(headers["content-length"]))).decode()))
        status = left.pop(0) if len(left) > 1 else left[0]
        writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/hook", got
    listening.close()


CALLING = LIMITS.model_copy(update={"webhook_hosts": ("127.0.0.1",), "fetch_networks": ("127.0.0.0/8",)})


async def test_a_webhook_is_called_again_until_it_takes_what_is_signed(place: str) -> None:
    async with receiver(500, 302, 204) as (url, got), replica(place, limits=CALLING, secret=SECRET) as (client, _):
        answer = await client.post("/v1/captions", files={"image": PNG}, headers={**ASYNC, "webhook-url": url})
        assert answer.json()["webhook"] == "waiting"
        address = answer.headers["location"]
        body = await ended(client, address)
        while body["webhook"] == "waiting":
            await asyncio.sleep(0.1)
            body = (await client.get(address)).json()
    assert (body["webhook"], len(got)) == ("called", 3)
    for headers, text in got:
        event = Webhook(SECRET).verify(text, headers)
        assert (headers["webhook-id"], event["type"]) == (body["id"], "caption.done")
        assert event["data"] == {name: body[name] for name in ("id", "status", "result", "error")}


async def test_another_replica_calls_the_webhook_of_a_lost_one(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LEASE_S", 0.3)
    monkeypatch.setattr(jobs, "LOOK_S", 0.1)
    headers = {**ASYNC, "prefer": "wait=1, Respond-Async"}
    async with receiver(503, 200) as (url, got):
        async with replica(place, limits=CALLING, secret=SECRET) as (client, _):
            answer = await client.post("/v1/captions", files={"image": PNG}, headers={**headers, "webhook-url": url})
            while not got:
                await asyncio.sleep(0.02)
        async with replica(place, delay_s=60, limits=CALLING, secret=SECRET) as (client, found):
            found.start()
            while (await client.get(answer.headers["location"])).json()["webhook"] == "waiting":
                await asyncio.sleep(0.05)
    assert len(got) == 2


@pytest.mark.parametrize(
    ("limits", "secret", "url", "reason"),
    [
        (LIMITS, SECRET, "http://127.0.0.1/", "webhook_hosts"),
        (CALLING, None, "http://127.0.0.1/", "CAPTION_SERVE_WEBHOOK_SECRET"),
        (CALLING, SECRET, "http://169.254.169.254/latest", "does not send to"),
        (CALLING, SECRET, "ftp://127.0.0.1/", "only http and https"),
    ],
)
async def test_a_webhook_that_is_not_allowed_is_told_at_once(
    tmp_path: Path, limits: Limits, secret: str | None, url: str, reason: str
) -> None:
    async with replica(str(tmp_path), limits=limits, secret=secret) as (client, _):
        headers = {**ASYNC, "webhook-url": url}
        refused = await client.post("/v1/captions", files={"image": PNG}, headers=headers)
        assert reason in assert_problem(refused, 422)["detail"]


async def test_a_webhook_at_a_private_address_is_not_called(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"webhook_hosts": ("localhost",)})
    async with receiver(200) as (url, got), replica(str(tmp_path), limits=limits, secret=SECRET) as (client, _):
        headers = {**ASYNC, "webhook-url": url.replace("127.0.0.1", "localhost")}
        answer = await client.post("/v1/captions", files={"image": PNG}, headers=headers)
        await ended(client, answer.headers["location"])
        await asyncio.sleep(0.2)
        assert (await client.get(answer.headers["location"])).json()["webhook"] == "failed"
    assert got == []


def test_a_secret_that_is_none_is_told_at_the_start() -> None:
    for secret in ("whsec_!", "whsec_c2hvcnQ=", ""):
        with pytest.raises(InvalidOption, match="CAPTION_SERVE_WEBHOOK_SECRET"):
            Webhooks(Fetcher(), secret)
