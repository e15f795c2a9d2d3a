"""When a request is sent again, and when it is given up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.deadline import NEVER, Deadline
from serve_app.errors import CaptionServeError, TryLater

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
LONGEST_RETRY_AFTER_S = 120.0

Result = TypeVar("Result")


class Retries:
    """The tries of one request: at most `max_retries` more than one, and none that would begin after the deadline.

    A pause is what the service names with the error, else one that doubles from half a second to half a minute; a
    random part keeps clients from returning together.
    """

    def __init__(
        self,
        max_retries: float,
        deadline: Deadline | None = None,
        *,
        longest_pause_s: float | None = None,
        kinds: type[CaptionServeError] | None = None,
    ) -> None:
        """`longest_pause_s` bounds every pause, also one that the service names. `kinds` are retried instead of the
        errors that say of themselves that they are `retryable`."""
        self._max_retries = max_retries
        self._deadline = deadline or NEVER
        self._longest_pause_s = longest_pause_s
        self._kinds = kinds
        self._tried = 0

    def pause_s(self, error: CaptionServeError) -> float:
        """Seconds to wait before the next try. Raises the error when there is none."""
        retryable = error.retryable if self._kinds is None else isinstance(error, self._kinds)
        pause_s = self._pause_s(error)
        if not retryable or self._tried >= self._max_retries or pause_s > self._deadline.left_s:
            raise error
        self._tried += 1
        return pause_s

    def _pause_s(self, error: CaptionServeError) -> float:
        named = error.retry_after_s if isinstance(error, TryLater) else None
        if named is not None:
            return self._bounded(named, LONGEST_RETRY_AFTER_S) * random.uniform(1.0, 1.2)
        # 2 ** 30 is beyond every bound, and 2 ** 1100 no float.
        return self._bounded(FIRST_PAUSE_S * 2 ** min(self._tried, 30), LONGEST_PAUSE_S) * random.uniform(0.5, 1.5)

    def _bounded(self, pause_s: float, longest_s: float) -> float:
        return min(pause_s, longest_s if self._longest_pause_s is None else self._longest_pause_s)


async def retried(
    send: Callable[[], Awaitable[Result]],
    retries: Retries,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    on_retry: Callable[[CaptionServeError], None] = lambda _: None,
) -> Result:
    """What `send` returns, called again after its errors as `retries` has it. Raises the last error."""
    while True:
        try:
            return await send()
        except CaptionServeError as error:
            pause_s = retries.pause_s(error)
            on_retry(error)
        await sleep(pause_s)
