"""One policy says when a request is sent again; the client, the handle client, batches and the page follow it."""

from __future__ import annotations

import asyncio
import math
import pickle
import time

import pytest

from serve_app import deadline as module
from serve_app.client.errors import ServiceUnreachable, UnexpectedAnswer
from serve_app.deadline import NEVER, Deadline
from serve_app.errors import (
    DeadlineExceeded,
    GenerationFailed,
    GeneratorUnavailable,
    InvalidImage,
    Overloaded,
    QuotaExceeded,
    WrongImageSize,
)
from serve_app.retry import Retries, retried


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Overloaded("Full.", 3), True),
        (QuotaExceeded("Used up.", 3), True),
        (GeneratorUnavailable("Gone."), True),
        (WrongImageSize("Changing."), True),
        (ServiceUnreachable("Nobody."), True),
        (UnexpectedAnswer("A proxy.", 502), True),
        (UnexpectedAnswer("A proxy.", 404), False),
        (InvalidImage("Bad."), False),
        (DeadlineExceeded(), False),
        (GenerationFailed("A bug."), False),
    ],
)
def test_an_error_says_whether_the_request_may_succeed_later(error: Exception, again: bool) -> None:
    retries = Retries(1)
    if not again:
        with pytest.raises(type(error)):
            retries.pause_s(error)  # type: ignore[arg-type]
    else:
        assert retries.pause_s(error) > 0  # type: ignore[arg-type]


def test_pauses_double_and_what_the_service_names_is_kept() -> None:
    retries, lost = Retries(math.inf), GeneratorUnavailable("Gone.")
    pauses = [retries.pause_s(lost) for _ in range(1200)]
    assert 0.25 <= pauses[0] <= 0.75
    assert 1 <= pauses[2] <= 3
    assert all(15 <= pause <= 45 for pause in pauses[6:])
    assert 7 <= Retries(1).pause_s(Overloaded("Full.", 7)) <= 8.4
    assert Retries(1).pause_s(Overloaded("Full.", 10_000)) <= 144
    assert Retries(1, longest_pause_s=2).pause_s(Overloaded("Full.", 7)) <= 2.4


def test_no_try_begins_after_the_deadline() -> None:
    with pytest.raises(Overloaded):
        Retries(math.inf, Deadline.after(5)).pause_s(Overloaded("Full.", 7))


async def test_tries_are_counted_and_the_last_error_raised() -> None:
    tries = []

    async def send() -> None:
        tries.append(len(tries))
        raise GeneratorUnavailable(f"try {len(tries)}")

    with pytest.raises(GeneratorUnavailable, match="try 3"):
        await retried(send, Retries(2, longest_pause_s=0))
    assert tries == [0, 1, 2]


async def test_a_deadline_ends_what_goes_on_for_longer() -> None:
    async with NEVER.enforced("never"):
        await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="too slow"):
        async with Deadline.after(0.01).enforced("too slow"):
            await asyncio.sleep(5)
    assert Deadline.after(-1).passed
    assert Deadline.after(-1).left_s == 0
    assert not NEVER.passed


def test_a_deadline_means_the_same_time_on_a_machine_with_another_monotonic_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = pickle.dumps(Deadline.after(20))
    monkeypatch.setattr(module.time, "monotonic", lambda: 5.0)
    assert abs(pickle.loads(sent).left_s - 20) < 1
    now = time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + 8)
    assert abs(pickle.loads(sent).left_s - 12) < 1
    assert pickle.loads(pickle.dumps(NEVER)) == NEVER
