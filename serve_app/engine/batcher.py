"""Jobs of all callers run in batches: whatever came while one batch ran is the next one."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from serve_app.deadline import Deadline
from serve_app.engine.worker import FAILED, Worker
from serve_app.errors import CaptionServeError, Overloaded

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_WAITING = 1000
"""Jobs that may wait; more are rejected."""


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Job]):
    job: Job
    finish: Callable[[Any], None]
    abandoned: Callable[[], bool]


class Batcher(Generic[Job, Result]):
    """Runs batches in its own thread.

    When a batch fails its jobs run again one by one, so that each gets its own error. When the device is lost, which
    no later batch can mend, the thread ends.
    """

    def __init__(self, run: Callable[[Sequence[Job]], list[Result]], name: str, most: int) -> None:
        """`run` is called in the thread `name`, with at most `most` jobs."""
        self._batches = _Batches(run, most, self.alive)
        self._worker: Worker[_Waiting[Job]] = Worker(self._batches, name)

    async def submit(self, job: Job, timeout_s: float | None = None) -> Result:
        """The job's result. Cancelling drops it unless it runs already.

        Raises `GeneratorUnavailable` when closed, `Overloaded` when too much waits, `DeadlineExceeded`, and what the
        job raised.
        """
        self._worker.check_alive()
        if self._worker.waiting + self._batches.waiting >= MAX_WAITING:
            raise Overloaded("The queue of the engine is full.")
        result: Result = await self._worker.result(lambda *told: _Waiting(job, *told), Deadline.after(timeout_s))
        return result

    def alive(self) -> None:
        """Tells that the running batch goes on; for long ones, between their parts."""
        self._worker.alive()

    def check_health(self) -> None:
        """Raises `GeneratorUnavailable` when the thread died or hangs."""
        self._worker.check_health()

    def close(self) -> None:
        """Ends the thread after the batch that runs; what waits fails."""
        self._worker.close()


class _Batches(Generic[Job, Result]):
    """The `Machine` of a `Batcher`."""

    def __init__(self, run: Callable[[Sequence[Job]], list[Result]], most: int, alive: Callable[[], None]) -> None:
        self.run, self._most, self._alive = run, most, alive
        self._queue: deque[_Waiting[Job]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        return not self._queue

    def warm_up(self) -> None:
        pass

    def submit(self, job: _Waiting[Job]) -> None:
        self._queue.append(job)

    def step(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
        if batch := [waiting for waiting in batch if not waiting.abandoned()]:
            self._work(batch)

    def fail_all(self, error: CaptionServeError) -> None:
        while self._queue:
            self._queue.popleft().finish(error)

    def _work(self, batch: Sequence[_Waiting[Job]]) -> None:
        try:
            results = self.run([waiting.job for waiting in batch])
        except Exception as error:
            lost = isinstance(error, torch.AcceleratorError)
            if len(batch) > 1 and not lost:
                self._queue.extendleft(reversed(batch))  # so that none is lost if the device is
                for _ in batch:
                    self._alive()
                    self._work([self._queue.popleft()])
                return
            for waiting in batch:
                waiting.finish(_told(error))
            if lost:
                raise
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.finish(result)


def _told(error: Exception) -> CaptionServeError:
    if isinstance(error, CaptionServeError):
        return error
    logger.error("a batch failed", exc_info=error)
    return FAILED
