"""When a request is sent again, and when it is given up."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from serve_app.client.errors import ServiceUnreachable, UnexpectedAnswer
from serve_app.errors import CaptionServeError, GeneratorUnavailable, TryLater, WrongImageSize

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_RETRY_AFTER_S = 120.0
_PASSING_STATUSES = (429, 500, 502, 503, 504)
"""Of a proxy; the service's own answers come with a problem document."""


@dataclass
class Retries:
    """The tries of one request: at most `max_retries` more than one, and none after `timeout_s`."""

    max_retries: int
    timeout_s: float
    _tried: int = 0
    _started: float = field(default_factory=time.monotonic)

    def pause_s(self, error: CaptionServeError) -> float:
        """How long to wait before the next try. Raises the error when there is to be none."""
        named = error.retry_after_s if isinstance(error, TryLater) else None
        if named is not None:
            pause = min(named, LONGEST_RETRY_AFTER_S) * random.uniform(1.0, 1.2)
        else:
            pause = min(FIRST_PAUSE_S * 2**self._tried, LONGEST_PAUSE_S) * random.uniform(0.5, 1.5)
        late = time.monotonic() + pause - self._started > self.timeout_s
        if not _may_pass(error) or self._tried >= self.max_retries or late:
            raise error
        self._tried += 1
        return pause


def _may_pass(error: CaptionServeError) -> bool:
    if isinstance(error, UnexpectedAnswer):
        return error.status in _PASSING_STATUSES
    return isinstance(error, TryLater | GeneratorUnavailable | WrongImageSize | ServiceUnreachable)
