"""The Generator over a handle that answers by a rule: outcomes as they come, and replicas that are lost; no cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError

from serve_app.deadline import Deadline
from serve_app.deployments.generator import HandleGenerator
from serve_app.errors import GeneratorUnavailable
from serve_app.types import Generated, GenerateJob, GenerationParameters, Outcome
from tests.unit.fakes import PIXELS

JOBS = [GenerateJob(f"p{number}", GenerationParameters()) for number in range(4)]


class Answers:
    """What `handle.stream.remote(…)` returns."""

    def __init__(self, answered: AsyncIterator[tuple[int, Outcome]]) -> None:
        self.cancelled = False
        self._answered = answered

    def __aiter__(self) -> AsyncIterator[tuple[int, Outcome]]:
        return self._answered

    def cancel(self) -> None:
        self.cancelled = True


class StreamHandle:
    """Answers each job until `survives(call)` jobs were answered, then is lost."""

    deployment_name = "Captioner"

    def __init__(self, survives: Callable[[int], int]) -> None:
        self.stream = self
        self.calls: list[list[str]] = []
        self.answers: list[Answers] = []
        self._survives = survives

    def options(self, **_: Any) -> StreamHandle:
        return self

    def remote(self, pixels: Any, jobs: list[GenerateJob], deadline: Deadline) -> Answers:
        self.calls.append([job.prompt for job in jobs])
        self.answers.append(Answers(self._answer(jobs, self._survives(len(self.calls)))))
        return self.answers[-1]

    async def _answer(self, jobs: list[GenerateJob], survives: int) -> AsyncIterator[tuple[int, Outcome]]:
        for place in reversed(range(len(jobs))):
            if survives == 0:
                raise ActorDiedError
            survives -= 1
            yield place, Generated(f"{jobs[place].prompt} text", jobs[place].prompt)


def texts(outcomes: list[Outcome]) -> list[str]:
    return [outcome.text if isinstance(outcome, Generated) else type(outcome).__name__ for outcome in outcomes]


@pytest.mark.parametrize("spread", [1, 2])
async def test_outcomes_are_told_as_they_come_and_returned_in_order(spread: int) -> None:
    handle = StreamHandle(lambda _: 9)
    told: list[tuple[int, str]] = []
    generator = HandleGenerator(handle, spread=spread)  # type: ignore[arg-type]
    outcomes = await generator.generate(PIXELS, JOBS, 5, lambda i, o: told.append((i, *texts([o]))))
    assert texts(outcomes) == [f"p{number} text" for number in range(4)]
    assert sorted(told) == [(number, f"p{number} text") for number in range(4)]
    assert len(handle.calls) == spread


async def test_only_what_a_lost_replica_had_not_answered_is_sent_again() -> None:
    handle = StreamHandle(lambda call: 2 if call == 1 else 9)
    told: list[int] = []
    generator = HandleGenerator(handle)  # type: ignore[arg-type]
    outcomes = await generator.generate(PIXELS, JOBS, 5, lambda i, _: told.append(i))
    assert texts(outcomes) == [f"p{number} text" for number in range(4)]
    assert handle.calls == [["p0", "p1", "p2", "p3"], ["p0", "p1"]]
    assert sorted(told) == [0, 1, 2, 3]
    assert handle.answers[0].cancelled


async def test_what_no_replica_answered_is_an_error_beside_the_others_and_told_once() -> None:
    handle = StreamHandle(lambda call: 1 if call == 1 else 0)
    told: list[int] = []
    generator = HandleGenerator(handle, max_retries=1)  # type: ignore[arg-type]
    outcomes = await generator.generate(PIXELS, JOBS, 5, lambda i, _: told.append(i))
    assert texts(outcomes) == [*["GeneratorUnavailable"] * 3, "p3 text"]
    assert sorted(told) == [0, 1, 2, 3]


async def test_nothing_at_all_is_raised() -> None:
    generator = HandleGenerator(StreamHandle(lambda _: 0))  # type: ignore[arg-type]
    with pytest.raises(GeneratorUnavailable):
        await generator.generate(PIXELS, JOBS, 5, lambda *_: None)
