"""Captions that were made a while ago, for the same image and options again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import redis.asyncio as redis

from serve_app.contract import CaptionBody
from serve_app.deadline import Deadline
from serve_app.errors import CaptionServeError
from serve_app.types import CaptionOptions

logger = logging.getLogger(__name__)

KEPT_S = 24 * 3600
"""How long Redis keeps an answer."""
ASK_AGAIN_S = 10.0
"""A Redis that failed is left alone for so long."""


def key_of(image: bytes, options: CaptionOptions, fingerprint: str, owner: str) -> str:
    """Equal for requests that get the same answer: same image, options and models, and one `owner`."""
    asked = json.dumps([asdict(replace(options, timeout_s=0.0)), fingerprint, owner], sort_keys=True)
    return hashlib.sha256(hashlib.sha256(image).digest() + asked.encode()).hexdigest()


@dataclass(eq=False)
class _Flight:
    """An answer that is being made, and how many wait for it."""

    task: asyncio.Task[CaptionBody]
    waiting: int = 0


class Results:
    """The last `entries` answers of this process, and those of all in Redis, if there is one. For one event loop."""

    def __init__(self, redis_url: str | None = None) -> None:
        self._kept: OrderedDict[str, CaptionBody] = OrderedDict()
        self._flights: dict[str, _Flight] = {}
        self._ask_again_at = 0.0
        self._redis: Any = None if redis_url is None else redis.from_url(redis_url, socket_timeout=1.0)

    async def get(
        self, key: str, entries: int, deadline: Deadline, make: Callable[[], Awaitable[CaptionBody]]
    ) -> tuple[CaptionBody, bool]:
        """The answer, and whether it was there; one that is being made for another request is waited for.

        If that one fails or lacks something, this request makes its own: it may have more time, or another place in the
        queue. Answers that lack something are not kept. Raises what `make` raises, and `DeadlineExceeded`.
        """
        if (found := await self._found(key)) is not None:
            return found, True
        if (flight := self._flights.get(key)) is not None:
            async with deadline.enforced("The request's time limit was reached before the same request was answered."):
                body = await self._joined(key, flight)
            if body is not None:
                return body, True
            return await make(), False
        flight = self._flights[key] = _Flight(asyncio.ensure_future(self._made(key, entries, make)))
        flight.task.add_done_callback(lambda _: self._land(key, flight))
        return await self._waited(key, flight), False

    async def _made(self, key: str, entries: int, make: Callable[[], Awaitable[CaptionBody]]) -> CaptionBody:
        body = await make()
        if not body.degraded:
            await self._keep(key, body, entries)
        return body

    async def _joined(self, key: str, flight: _Flight) -> CaptionBody | None:
        """The whole answer of another request's work; None if there is none."""
        try:
            body = await self._waited(key, flight)
        except CaptionServeError:
            return None
        except asyncio.CancelledError:
            if flight.task.cancelled():  # the work was given up, and not this request
                return None
            raise
        return None if body.degraded else body

    async def _waited(self, key: str, flight: _Flight) -> CaptionBody:
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._land(key, flight)  # nobody joins work that is given up
                flight.task.cancel()

    def _land(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _found(self, key: str) -> CaptionBody | None:
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        data = await self._of_redis("get", f"caption-serve:result:{key}")
        if data is None:
            return None
        try:
            return CaptionBody.model_validate_json(data)
        except ValueError:  # of another version
            return None

    async def _keep(self, key: str, body: CaptionBody, entries: int) -> None:
        self._kept[key] = body
        while len(self._kept) > entries:
            self._kept.popitem(last=False)
        await self._of_redis("set", f"caption-serve:result:{key}", body.model_dump_json(), ex=KEPT_S)

    async def _of_redis(self, method: str, *arguments: Any, **named: Any) -> Any:
        if self._redis is None or time.monotonic() < self._ask_again_at:
            return None
        try:
            return await getattr(self._redis, method)(*arguments, **named)
        except redis.RedisError:
            self._ask_again_at = time.monotonic() + ASK_AGAIN_S
            logger.warning("Redis keeps no answers for now.", exc_info=True)
            return None
