"""What one API key may ask for: requests a minute, and at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.errors import QuotaExceeded
from serve_app.limits import Limits

BUSY_RETRY_AFTER_S = 1.0
"""When one of the key's own requests will end is not known."""


@dataclass
class _Use:
    """`tokens` are requests that may be sent now; they come back evenly over a minute."""

    tokens: float
    at: float
    running: int = 0


class Quota:
    """Counts in this process; the limits are divided among `share` processes. For one event loop."""

    def __init__(self, share: Callable[[], float] = lambda: 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    @contextmanager
    def hold(self, name: str, limits: Limits) -> Iterator[None]:
        """Counts a request of the key while the block runs. Raises `QuotaExceeded`."""
        share = max(1.0, self._share())
        now = self._clock()
        a_minute = None if limits.key_requests_per_minute is None else max(1.0, limits.key_requests_per_minute / share)
        use = self._uses.setdefault(name, _Use(a_minute or 0.0, now))
        if limits.key_concurrency is not None and use.running >= max(1, limits.key_concurrency // share):
            raise QuotaExceeded("This API key has too many requests in progress.", BUSY_RETRY_AFTER_S)
        if a_minute is not None:
            use.tokens = min(a_minute, use.tokens + (now - use.at) * a_minute / 60)
            if use.tokens < 1:
                use.at = now
                raise QuotaExceeded("This API key has used up its requests.", (1 - use.tokens) * 60 / a_minute)
            use.tokens -= 1
        use.at = now
        use.running += 1
        try:
            yield
        finally:
            use.running -= 1
