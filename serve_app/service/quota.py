"""What the work of one API key may be: in a minute, and at once."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from serve_app.errors import QuotaExceeded
from serve_app.limits import Limits
from serve_app.service.keys import Key

logger = logging.getLogger("ray.serve")

ASK_AGAIN_S = 10.0
"""A Redis that failed is left alone for so long."""
BUSY_RETRY_AFTER_S = 1.0
"""When one of the key's own requests will end is not known."""


@dataclass
class Caller:
    """Whose key a request has."""

    key: Key
    told: dict[str, str] = field(default_factory=dict)
    """Response headers that say what is left of the key's minute."""


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of the running request; None without keys, and for work that is charged already."""


OWNER: ContextVar[str] = ContextVar("owner", default="")
"""Name of the running request's key, also of work that is charged already; empty without keys."""


class Quota:
    """Counts rows of each key: those of a minute in Redis for all processes, or in this one, which then has its part of
    the limit; those at once in this process. `share` is the number of processes. For one event loop."""

    def __init__(self, share: Callable[[], float] = lambda: 1, redis_url: str | None = None) -> None:
        self._share = share
        self._running: Counter[str] = Counter()
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._ask_again_at = 0.0
        self._shared: SlidingWindowCounterRateLimiter | None = None
        if redis_url is not None:
            storage: Storage = RedisStorage(
                f"async+{redis_url}", implementation="redispy", key_prefix="caption-serve", socket_timeout=1.0
            )
            self._shared = SlidingWindowCounterRateLimiter(storage)

    @asynccontextmanager
    async def hold(self, work: int, limits: Limits) -> AsyncIterator[None]:
        """Counts work of the running request's key while the block runs; what it contains is charged with it.

        Raises `QuotaExceeded`.
        """
        caller = CALLER.get()
        if caller is None:
            yield
            return
        at_once = caller.key.rows_at_once or limits.key_rows_at_once
        name = caller.key.name
        if at_once is not None:
            room = max(1, int(at_once // max(1.0, self._share())))
            if self._running[name] and self._running[name] + work > room:
                raise QuotaExceeded("This API key has too much work in progress.", BUSY_RETRY_AFTER_S)
        self._running[name] += work
        try:
            a_minute = caller.key.rows_per_minute or limits.key_rows_per_minute
            if a_minute is not None:
                await self._charge(caller, work, a_minute)
            token = CALLER.set(None)
            try:
                yield
            finally:
                CALLER.reset(token)
        finally:
            self._running[name] -= work

    async def _charge(self, caller: Caller, work: int, a_minute: int) -> None:
        if work > a_minute:
            raise QuotaExceeded(
                f"This request is work of {work} rows, and its API key may have {a_minute} a minute.", 60.0
            )
        limiter, item = self._own, RateLimitItemPerMinute(max(1, int(a_minute // max(1.0, self._share()))))
        if self._shared is not None and time.monotonic() > self._ask_again_at:
            try:
                await self._hit(self._shared, RateLimitItemPerMinute(a_minute), caller, work)
                return
            except QuotaExceeded:
                raise
            except Exception:  # Redis' client raises errors of several libraries
                self._ask_again_at = time.monotonic() + ASK_AGAIN_S
                logger.warning("Redis does not count what API keys use; each replica counts its share.", exc_info=True)
        await self._hit(limiter, item, caller, min(work, item.amount))

    async def _hit(
        self, limiter: SlidingWindowCounterRateLimiter, item: RateLimitItemPerMinute, caller: Caller, work: int
    ) -> None:
        passed = await limiter.hit(item, caller.key.name, cost=work)
        window = await limiter.get_window_stats(item, caller.key.name)
        left_s = max(0.0, window.reset_time - time.time())
        caller.told.update(
            {
                "x-ratelimit-limit": str(item.amount),
                "x-ratelimit-remaining": str(max(0, window.remaining)),
                "x-ratelimit-reset": str(math.ceil(left_s)),
            }
        )
        if not passed:
            raise QuotaExceeded("This API key has used up its work of a minute.", max(1.0, left_s))
