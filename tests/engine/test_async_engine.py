"""The engine's thread: cancelling, closing, dying, and what it counts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from serve_app.engine import AsyncEngine, async_engine, load, worker
from serve_app.errors import DeadlineExceeded, GenerationFailed, GeneratorUnavailable, InvalidOption
from serve_app.pipeline import CaptionPipeline, Presets
from serve_app.types import CaptionOptions, EngineLimits, Generated, GenerateJob, GenerationParameters
from tests.engine.engines import random_pictures

ENDLESS = GenerationParameters(max_length=500, min_length=499, num_beams=8, do_sample=False)
SHORT = GenerationParameters(max_length=12, num_beams=2, do_sample=False)
PICTURE = random_pictures(128, 1)[0]


@pytest.fixture
def engine() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(load("demo"))
    yield engine
    engine.close()


async def test_cancelling_frees_the_rows_at_the_next_step(engine: AsyncEngine) -> None:
    task = asyncio.create_task(engine.generate(PICTURE, [GenerateJob("", ENDLESS)] * 20))
    while engine.counters.rows < 160:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.generate(PICTURE, [GenerateJob("", SHORT)])
    assert engine.counters.rows == engine.counters.waiting == 0
    assert engine.counters.groups_dropped == 20
    engine.check_integrity()


async def test_closing_answers_what_runs_and_what_waits(engine: AsyncEngine) -> None:
    task = asyncio.create_task(engine.generate(PICTURE, [GenerateJob("", ENDLESS)] * 60))
    while not engine.counters.waiting:
        await asyncio.sleep(0.01)
    await asyncio.to_thread(engine.close)
    with pytest.raises(GeneratorUnavailable):
        await task
    engine.check_integrity()
    with pytest.raises(GeneratorUnavailable):
        await engine.generate(PICTURE, [GenerateJob("", SHORT)])
    with pytest.raises(GeneratorUnavailable):
        engine.check_health()


async def test_thread_that_dies_is_unhealthy_and_leaves_nobody_waiting(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine.check_health()
    monkeypatch.setattr(engine._engine, "_drop_ended", lambda: 1 / 0)
    with pytest.raises(GeneratorUnavailable):
        await asyncio.wait_for(engine.generate(PICTURE, [GenerateJob("", SHORT)]), 10)
    engine._worker._thread.join(5)
    with pytest.raises(GeneratorUnavailable):
        engine.check_health()
    assert "the engine's thread ends" in caplog.text


async def test_step_that_never_ends_is_unhealthy(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "STALL_S", 0.1)
    step = engine._engine.step
    monkeypatch.setattr(engine._engine, "step", lambda: (time.sleep(1), step()))
    task = asyncio.create_task(engine.generate(PICTURE, [GenerateJob("", SHORT)]))
    await asyncio.sleep(0.5)
    with pytest.raises(GeneratorUnavailable, match="one step"):
        engine.check_health()
    await task
    await asyncio.sleep(0.1)
    engine.check_health()


async def test_error_in_a_step_is_a_sentence_and_the_engine_goes_on(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(engine._engine.decoder, "forward", lambda *_: 1 / 0)
        (outcome,) = await engine.generate(PICTURE, [GenerateJob("", SHORT)])
    assert isinstance(outcome, GenerationFailed)
    assert "division" not in outcome.message
    (after,) = await engine.generate(PICTURE, [GenerateJob("", SHORT)])
    assert isinstance(after, Generated)


async def test_what_does_not_fit_is_told_and_its_neighbours_run(engine: AsyncEngine) -> None:
    wide = GenerationParameters(max_length=12, num_beams=300, do_sample=False)
    told, fine = await engine.generate(PICTURE, [GenerateJob("", wide), GenerateJob("", SHORT)])
    assert isinstance(told, InvalidOption)
    assert isinstance(fine, Generated)


async def test_one_deadline_does_not_end_another_call(engine: AsyncEngine) -> None:
    late, fine = await asyncio.gather(
        engine.generate(PICTURE, [GenerateJob("", ENDLESS)], timeout_s=0.2),
        engine.generate(PICTURE, [GenerateJob("", ENDLESS)]),
    )
    assert isinstance(late[0], DeadlineExceeded)
    assert isinstance(fine[0], Generated)


async def test_counters_add_up(engine: AsyncEngine) -> None:
    await engine.generate(PICTURE, [GenerateJob("", SHORT)] * 5)
    c = engine.counters
    assert (c.groups_finished, c.image_misses, c.image_hits, c.rows, c.waiting) == (5, 1, 4, 0, 0)
    assert c.tokens > 0
    assert 0 < c.batch_fill <= 10 / 256
    assert c.image_bytes > 0
    assert min(c.encode_s, c.forward_s, c.search_s) >= 0


@pytest.mark.extended
async def test_many_detailed_requests_stay_within_the_bounds() -> None:
    """64 at once, detail high: they wait for rows and bytes, and every one is answered."""
    limits = EngineLimits(max_rows=96, max_cache_bytes=200_000_000, max_image_cache_bytes=3_000_000)
    engine = AsyncEngine(load("demo"), limits)
    pipeline = CaptionPipeline(engine, Presets())
    pictures = random_pictures(128, 64)
    await pipeline.caption(pictures[0], CaptionOptions("classic", 3, (), 0, 300.0))
    before = psutil.Process().memory_info().rss
    most = before
    tasks = [
        asyncio.create_task(pipeline.caption(picture, CaptionOptions("classic", 3, (), 0, 300.0)))
        for picture in pictures
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0.05)
        most = max(most, psutil.Process().memory_info().rss)
        assert engine.counters.rows <= 96
        assert engine.counters.image_bytes <= 3_000_000
    results = [task.result() for task in tasks]
    assert all(result.caption for result in results)
    assert not any(result.degraded for result in results)
    assert most - before < 200_000_000 + 3_000_000
    engine.close()
    engine.check_integrity()


@pytest.mark.extended
async def test_soak_ends_where_it_began(engine: AsyncEngine) -> None:
    """2,000 requests, a fifth of them cancelled, of 50 images: rows, bytes and memory come back."""
    pictures = random_pictures(128, 50)
    sampled = GenerationParameters(max_length=20, num_beams=3, do_sample=True)
    memory = []
    for block in range(10):
        calls = [
            asyncio.ensure_future(
                engine.generate(pictures[n % 50], [GenerateJob("a photography of", sampled if n % 2 else SHORT, n)])
            )
            for n in range(200)
        ]
        await asyncio.sleep(0.05)
        for call in calls[::5]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        while engine.counters.rows or engine.counters.waiting:
            await asyncio.sleep(0.01)
        if block >= 4:
            memory.append(psutil.Process().memory_info().rss)
    engine.check_integrity()
    assert max(memory) - memory[0] < 20_000_000


async def test_a_caller_does_not_wait_for_a_step_that_hangs(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deadlines were the engine's thread's alone: while a step hung, command line and batch job waited for ever."""
    monkeypatch.setattr(async_engine, "GRACE_S", 0.1)
    go_on = threading.Event()
    monkeypatch.setattr(engine._engine, "step", lambda: go_on.wait(10))
    (outcome,) = await asyncio.wait_for(engine.generate(PICTURE, [GenerateJob("", SHORT)], timeout_s=0.2), 5)
    assert isinstance(outcome, DeadlineExceeded)
    go_on.set()


async def test_jobs_of_a_call_that_fails_end_with_it(engine: AsyncEngine) -> None:
    """The siblings of a job whose outcome could not be told decoded on for nobody."""

    def refuse(index: int, outcome: object) -> None:
        raise ValueError("nobody listens")

    jobs = [GenerateJob("", SHORT), *[GenerateJob("", ENDLESS)] * 4]
    with pytest.raises(ValueError, match="nobody"):
        await engine.generate(PICTURE, jobs, on_outcome=refuse)
    while engine.counters.rows or engine.counters.waiting:
        await asyncio.sleep(0.01)
    assert engine.counters.groups_dropped == 4
