"""Who is let in, by the work that a request brings, and when the others shall come back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serve_app.errors import Overloaded

WINDOW_S = 30.0
"""Work that was finished within this time says how fast the service is now."""
MIN_BUSY_S = 1.0
"""A busy period shorter than this says little; the rate of the one before is kept."""
FOREGROUND_SHARE = 0.5
"""Of the capacity: what background work never takes."""
MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
UNKNOWN_RETRY_AFTER_S = 5.0
"""The pause that a caller is given as long as nothing has been finished."""


class Admission:
    """Keeps the admitted work below `capacity` (rows, see `Captioner.work`), without a queue.

    A request that alone is larger than the capacity is let in when nothing else is there. Those who are
    rejected are given different pauses, one after the other at the rate at which the service finishes
    work, so that they don't all return at once. Not thread-safe: for one event loop.
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
        self.admitted = 0
        """Work that is being done now."""
        self.shed = 0
        """Requests rejected since the start."""

    def check(self) -> None:
        """Raises `Overloaded` if there is no capacity at all, before anybody reads the request."""
        if self.admitted and self.admitted >= self._capacity():
            raise self._refusal(self._usual_work)

    @contextmanager
    def admit(self, work: int, background: bool = False) -> Iterator[None]:
        """Holds `work` for the duration of the block. Raises `Overloaded` when it doesn't fit.

        `background` work leaves `FOREGROUND_SHARE` of the capacity to others, whoever else is there.
        """
        room = self._capacity() * (1 - FOREGROUND_SHARE if background else 1)
        if self.admitted and self.admitted + work > room:
            raise self._refusal(work, room)
        if not self.admitted:
            self._begin_busy()
        self.admitted += work
        self._usual_work = work
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
