"""The same request again: an answer that is kept, or one that is being made."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.contract import CaptionBody
from serve_app.errors import DeadlineExceeded, GenerationFailed
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, KeyStore
from serve_app.service.results import Results
from tests.pictures import encoded, picture
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, echo
from tests.unit.test_chat import URI, message
from tests.unit.test_keys import key_file, redis_url  # noqa: F401

OTHER = encoded(picture().rotate(90), "PNG")


def service_of(generator: RuleGenerator, redis: str | None = None, **limits: Any) -> CaptionService:
    settings = {"default_strategy": "classic", "default_detail": "low", "result_cache_entries": 2, **limits}
    return CaptionService(CaptionPipeline(generator), Limits(**settings), results=Results(redis))


def client_of(service: CaptionService, **more: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(service, **more), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_the_same_image_and_options_get_the_answer_that_was_made() -> None:
    generator = RuleGenerator(echo)
    service = service_of(generator)
    async with client_of(service) as client:

        async def ask(image: bytes = PNG, headers: dict[str, str] | None = None, **data: Any) -> httpx.Response:
            return await client.post("/v1/captions", files={"image": image}, data=data, headers=headers)

        first, again = await ask(), await ask(timeout_s="60")
        assert (first.headers["x-cache"], again.headers["x-cache"], len(generator.calls)) == ("miss", "hit", 1)
        assert again.json()["caption"] == first.json()["caption"]
        assert again.json()["id"] == again.headers["x-request-id"] != first.json()["id"]
        assert [(await ask(seed="1")).headers["x-cache"], (await ask(OTHER)).headers["x-cache"]] == ["miss", "miss"]
        assert (await ask()).headers["x-cache"] == "miss"  # the oldest of three was forgotten
        assert "x-cache" not in (await ask(headers={"cache-control": "no-cache"})).headers
    service.close()


async def test_nothing_is_kept_unless_it_is_asked_for() -> None:
    generator = RuleGenerator(echo)
    service = service_of(generator, result_cache_entries=0)
    async with client_of(service) as client:
        for _ in range(2):
            assert "x-cache" not in (await client.post("/v1/captions", files={"image": PNG})).headers
    assert len(generator.calls) == 2
    service.close()


async def test_requests_at_once_are_worked_on_once_and_survive_each_other() -> None:
    generator = RuleGenerator(echo, delay_s=0.2)
    service = service_of(generator)
    tasks = [asyncio.create_task(service.caption(PNG, {})) for _ in range(5)]
    await asyncio.sleep(0.05)
    tasks[0].cancel()  # the one whose request began the work
    await asyncio.gather(tasks[0], return_exceptions=True)
    assert len({(await task).caption for task in tasks[1:]}) == 1
    assert (len(generator.calls), generator.cancelled) == (1, 0)
    alone = asyncio.create_task(service.caption(OTHER, {}))
    await asyncio.sleep(0.05)
    alone.cancel()
    await asyncio.gather(alone, return_exceptions=True)
    await asyncio.sleep(0.01)
    assert generator.cancelled == 1
    service.close()


async def test_failures_and_answers_that_lack_something_are_not_kept() -> None:
    failing = [True]

    def rule(prompt: str) -> str | Exception:
        return GenerationFailed("It failed.") if failing[0] and "detailed" in prompt else echo(prompt)

    service = service_of(RuleGenerator(rule))
    assert (await service.caption(PNG, {})).degraded
    failing[0] = False
    assert not (await service.caption(PNG, {})).degraded
    service.close()


async def test_a_key_gets_its_own_answers_unless_they_are_shared(tmp_path: Path) -> None:
    file, (alice, bob) = key_file(tmp_path, "alice", "bob")
    for shared in (False, True):
        service = service_of(RuleGenerator(echo), result_cache_shared=shared)
        async with client_of(service, keys=KeyStore(str(file))) as client:
            found = [
                (await client.post("/v1/captions", files={"image": PNG}, headers={"x-api-key": key})).headers["x-cache"]
                for key in (alice, bob, alice)
            ]
        assert found == ["miss", "hit" if shared else "miss", "hit"]
        service.close()


async def test_chats_of_two_keys_share_nothing_either(tmp_path: Path) -> None:
    """The charge for the whole chat hid whose captions they are."""
    file, (alice, bob) = key_file(tmp_path, "alice", "bob")
    service = service_of(RuleGenerator(echo))
    async with client_of(service, keys=KeyStore(str(file))) as client:
        body = {"model": "fake", "messages": message(URI)}
        found = [
            (await client.post("/v1/chat/completions", json=body, headers={"x-api-key": key})).headers["x-cache"]
            for key in (alice, bob, alice)
        ]
    assert found == ["miss", "miss", "hit"]
    service.close()


async def test_who_joins_keeps_its_own_time_and_luck() -> None:
    """A request with minutes got the 504 of one with a second, whose work it had joined."""
    generator = RuleGenerator(echo, delay_s=0.3)
    service = service_of(generator)
    hasty = asyncio.create_task(service.caption(PNG, {"timeout_s": 60}))
    await asyncio.sleep(0.05)
    with pytest.raises(DeadlineExceeded):
        await service.caption(PNG, {"timeout_s": 0.05})
    assert (await hasty).caption
    failing = [True]

    def rule(prompt: str) -> str | Exception:
        return GenerationFailed("It failed.") if failing[0] else echo(prompt)

    other = service_of(RuleGenerator(rule, delay_s=0.1))
    first, second = (asyncio.create_task(other.caption(PNG, {})) for _ in range(2))
    await asyncio.sleep(0.15)
    failing[0] = False
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], GenerationFailed)
    assert (await second).caption
    for each in (service, other):
        each.close()


async def test_work_that_is_given_up_is_joined_by_nobody() -> None:
    generator = RuleGenerator(echo, delay_s=0.2)
    service = service_of(generator)
    for _ in range(3):
        gone = asyncio.create_task(service.caption(PNG, {}))
        await asyncio.sleep(0.02)
        gone.cancel()
        again = asyncio.create_task(service.caption(PNG, {}))
        await asyncio.gather(gone, return_exceptions=True)
    assert (await again).caption
    service.close()


async def test_replicas_share_answers_by_a_redis(redis_url: str) -> None:  # noqa: F811
    first, second = RuleGenerator(echo), RuleGenerator(echo)
    services = [service_of(first, redis_url), service_of(second, redis_url)]
    made, found = [await service.caption(PNG, {}) for service in services]
    assert (made.caption, len(second.calls)) == (found.caption, 0)
    gone = service_of(second, "redis://127.0.0.1:1/0")
    assert isinstance(await gone.caption(PNG, {}), CaptionBody)
    for service in (*services, gone):
        service.close()
