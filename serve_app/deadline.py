"""When work must have ended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serve_app.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """A point in time. It may be sent to another process or machine, if their clocks agree on the time of day."""

    at: float = math.inf
    """Seconds of this process's `time.monotonic`; infinite for no limit."""

    @classmethod
    def after(cls, timeout_s: float | None) -> Deadline:
        """In so many seconds; None for no limit."""
        return cls(math.inf if timeout_s is None else time.monotonic() + timeout_s)

    @property
    def left_s(self) -> float:
        """Seconds until then, at least 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at

    def later(self, seconds: float) -> Deadline:
        return Deadline(self.at + seconds)

    @asynccontextmanager
    async def enforced(self, message: str) -> AsyncIterator[None]:
        """Raises `DeadlineExceeded` with `message` if the block has not ended by then."""
        try:
            async with asyncio.timeout(None if math.isinf(self.at) else self.left_s):
                yield
        except TimeoutError:
            raise DeadlineExceeded(message) from None

    def __reduce__(self) -> tuple[object, tuple[float]]:
        # Monotonic clocks of two machines have nothing in common.
        return _at_epoch, (time.time() + self.at - time.monotonic(),)


def _at_epoch(seconds: float) -> Deadline:
    return Deadline.after(seconds - time.time())


NEVER = Deadline()
"""No limit."""
