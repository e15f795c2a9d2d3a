"""Who is admitted, by the work that a request brings, and when rejected ones should retry."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from serve_app.deadline import Deadline
from serve_app.errors import Overloaded
from serve_app.steps import Work

WINDOW_S = 30.0
"""Work that was finished within this time says how fast the service is now."""
MIN_BUSY_S = 1.0
"""A busy period shorter than this says little; the rate of the one before is kept."""
FOREGROUND_SHARE = 0.5
"""Of the capacity: what background and queued work never takes."""
MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
UNKNOWN_RETRY_AFTER_S = 5.0
"""The pause that a caller is given as long as nothing has been finished."""


@dataclass(eq=False)
class _Waiting:
    """Work in the queue; its future is done when it is admitted."""

    work: int
    admitted: asyncio.Future[None]


class Admission:
    """Keeps a captioner's admitted work below `capacity` (rows, see `Captioner.work`).

    A request that alone is larger than the capacity is admitted when nothing else is there. Rejected ones are given
    different pauses, one after the other at the rate at which the service finishes work, so that they don't all return
    at once. Images of a request with many wait in a queue instead, first come, first served; like background work they
    leave a share of the capacity to requests of one image. Not thread-safe: for one event loop.
    """

    def __init__(self, capacity: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._finished: deque[tuple[float, int]] = deque()
        self._finished_work = 0
        self._busy_since = 0.0
        self._rate: float | None = None
        self._next_slot = 0.0
        self._usual_work = 1
        self._queue: deque[_Waiting] = deque()
        self.admitted = 0
        """Work that is being done now."""
        self.shed = 0
        """Requests rejected since the start."""

    @property
    def is_full(self) -> bool:
        """Whether there is no capacity at all."""
        return bool(self.admitted) and self.admitted >= self._capacity()

    def check(self) -> None:
        """Raises `Overloaded` if there is no capacity at all, before anybody reads the request."""
        if self.is_full:
            raise self._refusal(self._usual_work)

    @contextmanager
    def admit(self, work: int, background: bool = False) -> Iterator[None]:
        """Holds `work` for the duration of the block. Raises `Overloaded` when it doesn't fit.

        `background` work leaves `FOREGROUND_SHARE` of the capacity to others, whoever else is there.
        """
        room = self._capacity() * (1 - FOREGROUND_SHARE if background else 1)
        if self.admitted and self.admitted + work > room:
            raise self._refusal(work, room)
        self._take(work)
        with self._held(work):
            yield

    @asynccontextmanager
    async def queue(self, work: int, deadline: Deadline) -> AsyncIterator[None]:
        """Waits until `work` fits, and holds it for the duration of the block. Raises `DeadlineExceeded`."""
        if not self._queue and self._fits_behind(work):
            self._take(work)
        else:
            await self._turn(work, deadline)
        with self._held(work):
            yield

    async def _turn(self, work: int, deadline: Deadline) -> None:
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        try:
            async with deadline.enforced("The request's time limit was reached while it waited for capacity."):
                await waiting.admitted
        except BaseException:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif waiting.admitted.done() and not waiting.admitted.cancelled():
                self._release(work, finished=0)
            raise

    def _fits_behind(self, work: int) -> bool:
        """Whether queued work fits into what it may take."""
        return not self.admitted or self.admitted + work <= self._capacity() * (1 - FOREGROUND_SHARE)

    def _take(self, work: int) -> None:
        if not self.admitted:
            self._begin_busy()
        self.admitted += work
        self._usual_work = work

    @contextmanager
    def _held(self, work: int) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._release(work, finished=0)
            raise
        self._release(work, finished=work)

    def rate(self) -> float | None:
        """Work finished per second, over the last half minute in which there was some; None before any."""
        self._forget_old()
        busy_s = min(WINDOW_S, self._clock() - self._busy_since)
        if self._finished_work and (busy_s >= MIN_BUSY_S or self._rate is None):
            self._rate = self._finished_work / max(busy_s, MIN_BUSY_S)
        return self._rate

    def _forget_old(self) -> None:
        oldest = self._clock() - WINDOW_S
        while self._finished and self._finished[0][0] < oldest:
            self._finished_work -= self._finished.popleft()[1]

    def _begin_busy(self) -> None:
        self._busy_since = self._clock()
        self._next_slot = 0.0
        self._finished.clear()
        self._finished_work = 0

    def _release(self, work: int, finished: int) -> None:
        self.admitted -= work
        self._forget_old()
        if finished:
            self._finished.append((self._clock(), finished))
            self._finished_work += finished
        if not self.admitted:
            self.rate()  # remembered, before idle time counts
        while self._queue and self._fits_behind(self._queue[0].work):
            waiting = self._queue.popleft()
            if not waiting.admitted.done():
                self._take(waiting.work)
                waiting.admitted.set_result(None)

    def _refusal(self, work: int, room: float | None = None) -> Overloaded:
        self.shed += 1
        now, rate = self._clock(), self.rate()
        if rate is None:
            wait_s = UNKNOWN_RETRY_AFTER_S
        else:
            room_s = max(0.0, self.admitted + work - (self._capacity() if room is None else room)) / rate
            slot = min(max(self._next_slot, now + room_s), now + MAX_RETRY_AFTER_S)
            self._next_slot = slot + work / rate
            wait_s = max(MIN_RETRY_AFTER_S, slot - now)
        return Overloaded("The service is full; try again later.", wait_s)


class Admissions:
    """An `Admission` for each captioner; a request is admitted when it is to all that it uses."""

    def __init__(self, capacity: Callable[[str], float]) -> None:
        self._capacity = capacity
        self._of: dict[str, Admission] = {}

    def of(self, captioner: str) -> Admission:
        if captioner not in self._of:
            self._of[captioner] = Admission(partial(self._capacity, captioner))
        return self._of[captioner]

    @property
    def admitted(self) -> int:
        """Work that is being done now, of all captioners."""
        return sum(admission.admitted for admission in self._of.values())

    @property
    def shed(self) -> int:
        """Requests rejected since the start."""
        return sum(admission.shed for admission in self._of.values())

    def check(self, captioners: Collection[str]) -> None:
        """Raises `Overloaded` if none of the captioners has any capacity, before anybody reads the request."""
        admissions = [self.of(captioner) for captioner in captioners]
        if all(admission.is_full for admission in admissions):
            admissions[0].check()

    @contextmanager
    def admit(self, work: Work, background: bool = False) -> Iterator[None]:
        """As `Admission.admit`, for each captioner."""
        with ExitStack() as held:
            for captioner, rows in work.items():
                held.enter_context(self.of(captioner).admit(rows, background))
            yield

    @asynccontextmanager
    async def queue(self, work: Work, deadline: Deadline) -> AsyncIterator[None]:
        """As `Admission.queue`, for one captioner after the other, always in the same order."""
        async with AsyncExitStack() as held:
            for captioner in sorted(work):
                await held.enter_async_context(self.of(captioner).queue(work[captioner], deadline))
            yield
