"""The captions of one request that asks for several."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serve_app.contract import CaptionBody
from serve_app.deadline import Deadline
from serve_app.service.captions import CaptionService

AT_ONCE = 8
"""Captions of one request that are in progress or in the admission's queue at a time."""
UNDONE = "The time limit of the whole request was reached before this caption."


class Several:
    """A few captions at a time, each as soon as there is capacity, until the most that any request may take."""

    def __init__(self, service: CaptionService) -> None:
        self._service = service
        self._room = asyncio.Semaphore(AT_ONCE)
        self._deadline = Deadline.after(service.limits.max_timeout_s)

    async def caption(self, image: Any, options: Mapping[str, Any], request_id: str) -> CaptionBody:
        """Raises what `CaptionService.caption` raises, but `Overloaded`."""
        async with self._deadline.enforced(UNDONE), self._room:
            return await self._service.caption(image, options, request_id, queue_until=self._deadline)
