"""One thread that runs what is waiting in batches."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

import torch

from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed, GeneratorUnavailable, Overloaded

logger = logging.getLogger(__name__)

Job = TypeVar("Job")
Result = TypeVar("Result")

MAX_WAITING = 1000
"""Jobs that may wait; more are turned away."""
STALL_S = 120.0
"""A batch that says nothing for longer than this is taken for one that never ends."""


class Batcher(Generic[Job, Result]):
    """Runs jobs of all callers together: whatever came while one batch ran is the next one.

    When a batch fails its jobs run again one by one, so that each gets its own error. When the device is lost, which
    no later batch can mend, the thread ends.
    """

    def __init__(self, run: Callable[[Sequence[Job]], list[Result]], name: str, most: int) -> None:
        """`run` is called in the thread with at most `most` jobs."""
        self._run_batch = run
        self._most = most
        self._inbox: queue.Queue[tuple[Job, Future[Result]] | None] = queue.Queue()
        self._closed = threading.Event()
        self._busy_since: float | None = None
        self._lost: Exception | None = None
        """What ended the device for this process."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def submit(self, job: Job, timeout_s: float | None = None) -> Result:
        """The job's result. Cancelling drops it unless it runs already.

        Raises `GeneratorUnavailable` when closed, `Overloaded` when too much waits, `DeadlineExceeded`, and what the
        job raised.
        """
        if self._closed.is_set() or not self._thread.is_alive():
            raise GeneratorUnavailable("The engine is closed.")
        if self._inbox.qsize() >= MAX_WAITING:
            raise Overloaded("The queue of the engine is full.")
        future: Future[Result] = Future()
        self._inbox.put((job, future))
        if self._closed.is_set():
            future.cancel()
            raise GeneratorUnavailable("The engine is closed.")
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise DeadlineExceeded("The request's time ran out.") from None
        finally:
            future.cancel()

    def alive(self) -> None:
        """Tells that the running batch goes on; for long ones, between their parts."""
        self._busy_since = time.monotonic()

    def check_health(self) -> None:
        """Raises `GeneratorUnavailable` when the thread died or hangs."""
        since = self._busy_since
        if not self._thread.is_alive() or (since is not None and time.monotonic() - since > STALL_S):
            raise GeneratorUnavailable("The engine does not work any more.")

    def close(self) -> None:
        """Ends the thread after the batch that runs; what waits fails."""
        self._closed.set()
        self._inbox.put(None)

    def _run(self) -> None:
        while not self._closed.is_set() and self._lost is None:
            batch = self._next()
            if not batch:
                continue
            self._busy_since = time.monotonic()
            self._work(batch)
            self._busy_since = None
        self._closed.set()
        while not self._inbox.empty():
            if (item := self._inbox.get_nowait()) is not None and item[1].set_running_or_notify_cancel():
                item[1].set_exception(GeneratorUnavailable("The engine is closed."))

    def _next(self) -> list[tuple[Job, Future[Result]]]:
        waiting = [self._inbox.get()]
        while len(waiting) < self._most and not self._inbox.empty():
            waiting.append(self._inbox.get_nowait())
        return [item for item in waiting if item is not None and item[1].set_running_or_notify_cancel()]

    def _work(self, batch: Sequence[tuple[Job, Future[Result]]]) -> None:
        try:
            results = self._run_batch([job for job, _ in batch])
        except Exception as error:
            if isinstance(error, torch.AcceleratorError):
                self._lost = error
            if len(batch) > 1 and self._lost is None:
                for item in batch:
                    self.alive()
                    self._work([item])
                return
            told = _told(error)
            for _, future in batch:
                future.set_exception(told)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)


def _told(error: Exception) -> CaptionServeError:
    if isinstance(error, CaptionServeError):
        return error
    logger.exception("a batch failed", exc_info=error)
    return GenerationFailed("The model failed on this request; the service's log has the details.")
