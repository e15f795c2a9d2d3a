"""Admission by work: who is let in, who is sent away, and for how long."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable

import httpx
import pytest

from serve_app.args import AppArgs
from serve_app.errors import InvalidOption, Overloaded
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline, Presets
from serve_app.service import CaptionService
from serve_app.service.admission import MAX_RETRY_AFTER_S, UNKNOWN_RETRY_AFTER_S, Admission
from serve_app.steps import ONLY
from serve_app.types import CaptionOptions
from tests.pictures import encoded, picture
from tests.unit.fakes import RuleGenerator, options

PNG = encoded(picture(), "PNG")
LONG = "a red bus stands beside a small green tree in front of a tall grey house with many windows"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def work_of(asked: CaptionOptions) -> int:
    return CaptionPipeline(RuleGenerator(str)).work(asked)[ONLY]


def test_work_is_beams_of_variants_and_rounds() -> None:
    assert work_of(options(rounds=1)) == 4 * 8
    assert work_of(options(rounds=3)) == 4 * 8 + 2 * 7
    assert work_of(options(rounds=2, prompts=("a", "b"))) == 2 * 8 + 7
    assert work_of(options(strategy="basic")) == 1


def test_work_beyond_the_capacity_is_refused_and_room_comes_back() -> None:
    admission = Admission(lambda: 100.0)
    with admission.admit(60):
        with pytest.raises(Overloaded), admission.admit(41):
            pass
        with admission.admit(40):
            assert admission.admitted == 100
            with pytest.raises(Overloaded):
                admission.check()
        admission.check()
    with pytest.raises(ZeroDivisionError), admission.admit(60):
        raise ZeroDivisionError
    assert admission.admitted == 0


def test_a_request_larger_than_the_capacity_is_let_in_alone() -> None:
    """Otherwise it could never be served."""
    admission = Admission(lambda: 10.0)
    with admission.admit(46), pytest.raises(Overloaded), admission.admit(1):
        pass


def refused(admission: Admission, work: int) -> float:
    with pytest.raises(Overloaded) as caught, admission.admit(work):
        pass
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


def test_retry_after_follows_the_rate_and_spaces_the_callers() -> None:
    clock = Clock()
    admission = Admission(lambda: 100.0, clock)
    with admission.admit(100):
        assert refused(admission, 40) == UNKNOWN_RETRY_AFTER_S
        clock.now += 10
    with admission.admit(100):
        # 100 rows took 10 s, so that 40 take 4: each caller is told the end of the one before.
        assert [refused(admission, 40) for _ in range(3)] == pytest.approx([4, 8, 12])
        clock.now += 4
        assert refused(admission, 40) == pytest.approx(12)
        assert max(refused(admission, 40) for _ in range(99)) == MAX_RETRY_AFTER_S


def test_overloaded_keeps_its_time_across_processes() -> None:
    copy = pickle.loads(pickle.dumps(Overloaded("Full.", 7.5)))
    assert (copy.message, copy.retry_after_s) == ("Full.", 7.5)


@pytest.mark.parametrize("status", [503, 429])
async def test_full_service_answers_with_a_problem_and_a_time(status: int) -> None:
    generator = RuleGenerator(lambda prompt: f"{prompt} {LONG}", delay_s=0.3)
    limits = Limits(overload_status=status)  # type: ignore[arg-type]
    service = CaptionService(CaptionPipeline(generator), limits, lambda _: 64.0)
    transport = httpx.ASGITransport(create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        def post(detail: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(
                client.post("/v1/captions", content=PNG, params={"detail": detail}, headers={"x-request-id": "7"})
            )

        first = [post("low"), post("low")]
        await until(lambda: service.admission.admitted == 64)
        late = await post("low")
        answers = [await task for task in first]
        after = await post("low")
    assert [answer.status_code for answer in (*answers, after)] == [200] * 3
    assert late.status_code == status
    assert late.headers["content-type"] == "application/problem+json"
    assert int(late.headers["retry-after"]) >= 1
    assert late.json()["type"] == "urn:caption-serve:overloaded"
    assert late.json()["request_id"] == "7"


async def test_reconfigured_service_serves_by_the_new_settings_at_once() -> None:
    args = AppArgs()
    generator = RuleGenerator(lambda prompt: f"{prompt} {LONG}")
    service = CaptionService(CaptionPipeline(generator), args.limits())
    changed = args.reconfigured({"default_detail": "low", "presets": {"variant": {"num_beams": 3}}, "max_prompts": 2})
    presets = Presets().override(changed.presets)
    service.reconfigure(CaptionPipeline(generator, presets), changed.limits())
    body = await service.caption(PNG, {})
    assert body.rounds == []
    assert generator.calls[-1][0].parameters.num_beams == 3
    with pytest.raises(InvalidOption, match="at most 2"):
        await service.caption(PNG, {"prompts": ["a", "b", "c"]})


def test_only_live_settings_can_be_reconfigured() -> None:
    with pytest.raises(InvalidOption, match="model: not a live setting"):
        AppArgs().reconfigured({"model": "other"})
    with pytest.raises(ValueError, match="default_timeout_s"):
        AppArgs().reconfigured({"max_timeout_s": 10})
    assert AppArgs(max_timeout_s=400).reconfigured({"default_timeout_s": 350}).max_timeout_s == 400


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def test_full_service_stays_ready() -> None:
    """A probe that met a full queue took the busiest replicas from their load balancer."""
    generator = RuleGenerator(lambda _: Overloaded("The queue of the caption replicas is full."))
    service = CaptionService(CaptionPipeline(generator))
    assert await service.readiness.reason_not_ready() is None


async def test_steady_load_is_forgotten_after_the_window() -> None:
    """What was finished was kept for ever as long as nobody was refused and there was always some work."""
    clock = Clock()
    admission = Admission(lambda: 1000.0, clock)
    with admission.admit(1):
        for _ in range(500):
            clock.now += 1
            with admission.admit(10):
                clock.now += 1
        assert len(admission._finished) <= 20
        assert admission.rate() == pytest.approx(5, rel=0.1)


def test_background_work_leaves_half_of_the_room_to_others() -> None:
    admission = Admission(lambda: 100)
    with admission.admit(40, background=True):
        with pytest.raises(Overloaded), admission.admit(20, background=True):
            pass
        with admission.admit(60):
            assert admission.admitted == 100
    with admission.admit(80, background=True):  # alone it is let in, however large
        pass
