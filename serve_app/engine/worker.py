"""The thread that does a model's work: its inbox, its health, its end."""

from __future__ import annotations

import asyncio
import copy
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Protocol, TypeVar

from serve_app.deadline import Deadline
from serve_app.errors import OUT_OF_TIME, CaptionServeError, GenerationFailed, GeneratorUnavailable

logger = logging.getLogger(__name__)

STALL_S = 120.0
"""A step that says nothing for longer than this is taken for one that never ends."""
FAILED = GenerationFailed("The model failed on this request; the service's log has the details.")
_CLOSED = "The engine is closed."


class Job(Protocol):
    @property
    def finish(self) -> Callable[[Any], None]:
        """Takes the result or a `CaptionServeError`; called once, in any thread."""
        ...


SomeJob = TypeVar("SomeJob", bound=Job)
SomeJob_contra = TypeVar("SomeJob_contra", bound=Job, contravariant=True)


class Machine(Protocol[SomeJob_contra]):
    """What works; the worker's thread alone calls it."""

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        ...

    def warm_up(self) -> None:
        """Comes first."""
        ...

    def submit(self, job: SomeJob_contra) -> None:
        """Raises a `CaptionServeError` when the job can never run."""
        ...

    def step(self) -> None:
        """Does some of the work. Raises when the device can do no more in this process."""
        ...

    def fail_all(self, error: CaptionServeError) -> None:
        """Ends every job with `error`."""
        ...


class Worker(Generic[SomeJob]):
    """Runs a machine in its own thread, until it is closed or the device is lost."""

    def __init__(self, machine: Machine[SomeJob], name: str) -> None:
        """`name` of the thread. Raises what the machine's `warm_up` raises."""
        self._machine = machine
        self._inbox: queue.SimpleQueue[SomeJob | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._busy_since: float | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name=name, daemon=True)
        self._thread.start()
        started.result()

    async def result(
        self, job_of: Callable[[Callable[[Any], None], Callable[[], bool]], SomeJob], deadline: Deadline
    ) -> Any:
        """What a job's `finish` was told. Cancelling the call abandons the job.

        `job_of` makes the job of its `finish` and of what says whether it is abandoned. Raises
        `GeneratorUnavailable`, `DeadlineExceeded`, and the error that the job ended with.
        """
        future: Future[Any] = Future()

        def finish(result: Any) -> None:
            if future.set_running_or_notify_cancel():
                if isinstance(result, CaptionServeError):
                    # A copy: where it is raised it keeps the caller's frames, with their images.
                    future.set_exception(copy.copy(result))
                else:
                    future.set_result(result)

        self.check_alive()
        self._inbox.put(job_of(finish, future.cancelled))
        if self._closing.is_set():
            # The thread may have emptied the inbox for the last time already.
            self._end_inbox()
        async with deadline.enforced(OUT_OF_TIME):
            return await asyncio.wrap_future(future)

    @property
    def waiting(self) -> int:
        """Jobs that the machine has not seen yet."""
        return self._inbox.qsize()

    def alive(self) -> None:
        """For the machine: reports that a long step is still running."""
        self._busy_since = time.monotonic()

    def check_alive(self) -> None:
        if self._closing.is_set() or not self._thread.is_alive():
            raise GeneratorUnavailable(_CLOSED)

    def check_health(self) -> None:
        """Raises `GeneratorUnavailable` when the thread died or hangs in a step."""
        self.check_alive()
        since = self._busy_since
        if since is not None and time.monotonic() - since > STALL_S:
            raise GeneratorUnavailable(f"The engine has been in one step for more than {STALL_S:.0f} s.")

    def close(self) -> None:
        """Ends the thread after its current step, and what runs and waits with `GeneratorUnavailable`."""
        self._closing.set()
        self._inbox.put(None)
        self._thread.join()

    def _run(self, started: Future[None]) -> None:
        try:
            self._machine.warm_up()
            started.set_result(None)
        except Exception as error:
            self._closing.set()
            started.set_exception(error)
            return
        try:
            while not self._closing.is_set():
                self._receive()
                self._busy_since = time.monotonic()
                self._machine.step()
                self._busy_since = None
        except Exception:
            logger.exception("the engine's thread ends")
        finally:
            self._closing.set()
            self._busy_since = None
            try:
                self._machine.fail_all(GeneratorUnavailable(_CLOSED))
            finally:
                self._end_inbox()

    def _receive(self) -> None:
        """Takes in new jobs; waits for one when there is nothing else to do."""
        while True:
            try:
                job = self._inbox.get(block=self._machine.idle)
            except queue.Empty:
                return
            if job is None:
                return
            try:
                self._machine.submit(job)
            except CaptionServeError as error:
                job.finish(error)
            except Exception:
                logger.exception("a request could not be queued")
                job.finish(FAILED)

    def _end_inbox(self) -> None:
        while True:
            try:
                job = self._inbox.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job.finish(GeneratorUnavailable(_CLOSED))
        self._inbox.put(None)  # the thread may still wait for the one that was taken out here
