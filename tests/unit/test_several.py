"""Requests with several captions: they wait for capacity, leave some to others, and end in time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from serve_app.deadline import NEVER, Deadline
from serve_app.errors import DeadlineExceeded, Overloaded
from serve_app.http import create_app, streams
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService
from serve_app.service.admission import Admission
from tests.unit.fakes import CLASSIC, RuleGenerator
from tests.unit.test_api import PNG, echo
from tests.unit.test_chat import URI, message

ROWS = 120
"""Of the service; one caption of detail high takes 46."""


@asynccontextmanager
async def api(
    limits: Limits = CLASSIC, delay_s: float = 0.01
) -> AsyncIterator[tuple[httpx.AsyncClient, CaptionService]]:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo, delay_s)), limits, lambda _: ROWS)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client, service
    service.close()


async def test_queued_work_is_first_come_first_served_and_leaves_half_to_others() -> None:
    admission, order, ends = Admission(lambda: 100.0), [], [asyncio.Event() for _ in range(4)]

    async def work(number: int) -> None:
        async with admission.queue(30, NEVER):
            order.append(number)
            await ends[number].wait()

    tasks = [asyncio.create_task(work(number)) for number in range(4)]
    await asyncio.sleep(0)
    assert (order, admission.admitted) == ([0], 30)  # a second one would take more than half
    with admission.admit(60):
        ends[0].set()
        await asyncio.sleep(0.01)
        assert order == [0]  # others have what is free now
    await asyncio.sleep(0.01)
    assert order == [0, 1]
    tasks[2].cancel()
    ends[1].set()
    await asyncio.sleep(0.01)
    assert order == [0, 1, 3]
    ends[3].set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert admission.admitted == 0


async def test_a_place_in_the_queue_ends_with_its_deadline() -> None:
    admission = Admission(lambda: 100.0)
    with admission.admit(90):
        with pytest.raises(DeadlineExceeded):
            async with admission.queue(60, Deadline.after(0.01)):
                pass
        assert admission.admitted == 90
    async with admission.queue(200, NEVER):  # alone, whatever its size
        assert admission.admitted == 200
    assert admission.admitted == 0


async def test_a_cancel_at_the_moment_of_admission_gives_the_room_back() -> None:
    admission = Admission(lambda: 100.0)

    async def wait() -> None:
        async with admission.queue(60, NEVER):
            pass

    with admission.admit(90):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert admission.admitted == 0


async def test_batches_that_wait_do_not_send_others_away_for_longer() -> None:
    """Each image of a batch that waited asked again every two seconds and moved everybody's `Retry-After` to 60 s."""
    now = [0.0]
    admission = Admission(lambda: 100.0, lambda: now[0])
    for _ in range(20):
        with admission.admit(50):
            now[0] += 0.5
    with admission.admit(90):
        waiting = [asyncio.create_task(admission.queue(46, NEVER).__aenter__()) for _ in range(16)]
        await asyncio.sleep(0)
        for _ in range(20):
            now[0] += 1.0
            with pytest.raises(Overloaded) as error, admission.admit(46):
                pass
        assert error.value.retry_after_s < 10
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize(("images", "choices"), [(64, 1), (3, 8), (1, 8)])
async def test_a_chat_with_many_captions_is_answered_by_an_idle_service(images: int, choices: int) -> None:
    """More captions than fit at once were 503 however idle the service was."""
    async with api() as (client, _):
        body = {"model": "fake", "n": choices, "messages": message(*[URI] * images)}
        answer = await client.post("/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == choices
    assert all(len(choice["message"]["content"].splitlines()) == images for choice in answer.json()["choices"])


async def test_a_lone_caption_is_let_in_beside_a_batch() -> None:
    async with api(delay_s=0.05) as (client, service):
        files = [("image", (f"{number}.png", PNG)) for number in range(20)]
        batch = asyncio.create_task(client.post("/v1/captions/batch", files=files, timeout=60))
        while not service.admission.admitted:
            await asyncio.sleep(0.01)
        alone = await client.post("/v1/captions", files={"image": PNG})
        assert (alone.status_code, batch.done()) == (200, False)
        assert len((await batch).text.splitlines()) == 20


async def test_what_a_batch_did_not_reach_in_time_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve cut long batches at 660 s, and nothing said which images were missing."""
    monkeypatch.setattr(streams, "PING_S", 0.05)
    limits = CLASSIC.model_copy(update={"max_timeout_s": 0.6, "default_timeout_s": 0.6})
    async with api(limits, delay_s=0.15) as (client, _):
        files = [("image", (f"{number}.png", PNG)) for number in range(12)]
        answer = await client.post("/v1/captions/batch", files=files, timeout=60)
    assert answer.text.startswith(" ")  # so that nobody takes a quiet connection for a dead one
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert sorted(line["index"] for line in lines) == list(range(12))
    missing = [line["error"]["status"] for line in lines if line["error"]]
    assert 0 < len(missing) < 12
    assert {*missing} == {504}
