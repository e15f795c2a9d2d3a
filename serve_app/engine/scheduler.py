"""Who runs next: the group whose deadline comes first.

The steps of a request share its deadline, so its later rounds keep the place in the queue that its first step had.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.deadline import NEVER, Deadline
from serve_app.engine.image_cache import EncodedImage
from serve_app.engine.parameters import SearchParameters
from serve_app.errors import CaptionServeError
from serve_app.types import Pixels

PATIENCE_S = 300.0
"""A group without a deadline waits as one that has so many seconds."""


@dataclass(eq=False, slots=True)
class Group:
    """The beams of one generate request."""

    pixels: Pixels
    prompt: list[int]
    """Token ids, the start token first."""
    parameters: SearchParameters
    seed: int
    finish: Callable[[list[Hypothesis] | CaptionServeError], None]
    """Called once, in any thread."""
    abandoned: Callable[[], bool] = field(default=lambda: False)
    """Whether nobody waits for the result any more."""
    deadline: Deadline = NEVER
    submitted: float = 0.0
    """Seconds of `time.monotonic`."""
    image: EncodedImage | None = None

    @property
    def rows(self) -> int:
        return self.parameters.rows

    def over(self, now: float) -> bool:
        """Whether its result is of no use any more."""
        return self.abandoned() or now >= self.deadline.at


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished sequence: prompt and answer as token ids, and its beam score (None without beams)."""

    ids: list[int]
    score: float | None


class Scheduler:
    """The groups that wait."""

    def __init__(self) -> None:
        self._queue: list[tuple[float, int, Group]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, group: Group) -> None:
        group.submitted = time.monotonic()
        limited = not math.isinf(group.deadline.at)
        due = group.deadline.at if limited else group.submitted + PATIENCE_S
        heapq.heappush(self._queue, (due, next(self._numbers), group))

    def next(self) -> Group | None:
        """The group at the head of the queue."""
        return self._queue[0][2] if self._queue else None

    def admit(self) -> Group:
        """Takes the head of the queue out of it."""
        return heapq.heappop(self._queue)[2]

    def withdraw(self, ended: Callable[[Group], bool]) -> list[Group]:
        """Takes the groups that `ended` says are over out of the queue."""
        gone = {number: group for _, number, group in self._queue if ended(group)}
        if gone:
            self._queue = [entry for entry in self._queue if entry[1] not in gone]
            heapq.heapify(self._queue)
        return list(gone.values())
