"""Calls of replicas by handle: patience, errors, and another try where a replica is lost."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from serve_app.deployments.handle_errors import our_errors
from serve_app.errors import DeadlineExceeded, GeneratorUnavailable

logger = logging.getLogger("ray.serve")

GRACE_S = 5.0
"""A replica ends its work at the deadline; an answer that is later than this by more is given up."""


class ReplicaCalls:
    """Calls of one kind of replica ("caption", "matcher"); `max_retries` may change at any time."""

    def __init__(self, kind: str, max_retries: int) -> None:
        self.kind = kind
        self.max_retries = max_retries

    async def __call__(self, handle: Any, method: str, *arguments: Any, deadline: float | None) -> Any:
        """The replica's answer; a call whose replica is lost is sent again, at most `max_retries` times.

        `deadline` in seconds of the epoch. Raises `CaptionServeError`s.
        """
        for _ in range(self.max_retries):
            try:
                return await self._answer(handle, method, arguments, deadline)
            except GeneratorUnavailable:
                logger.warning("A %s replica was lost; its call %r is sent again.", self.kind, method)
        return await self._answer(handle, method, arguments, deadline)

    @asynccontextmanager
    async def patience(self, deadline: float | None) -> AsyncIterator[None]:
        """Raises `DeadlineExceeded` when the block goes on after the deadline and the grace."""
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.time()) + GRACE_S):
                yield
        except TimeoutError:
            raise DeadlineExceeded(f"No {self.kind} replica answered in time.") from None

    async def _answer(self, handle: Any, method: str, arguments: tuple[Any, ...], deadline: float | None) -> Any:
        """One try, with Ray's errors turned into ours."""
        async with self.patience(deadline):
            with our_errors(self.kind):
                return await getattr(handle, method).remote(*arguments)
