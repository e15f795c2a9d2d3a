"""The captions of one request that asks for several."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from serve_app.contract import CaptionBody
from serve_app.deadline import Deadline
from serve_app.errors import TryLater
from serve_app.service.captions import CaptionService

AT_ONCE = 8
"""Captions of one request that are in progress or in the admission's queue at a time."""
SOON_S = 2.0
"""A refusal that names a longer pause (an API key that has used up its minute) is the caption's answer."""
UNDONE = "The time limit of the whole request was reached before this caption."


class Several:
    """A few captions at a time, each as soon as there is capacity, until the most that any request may take."""

    def __init__(self, service: CaptionService) -> None:
        self._service = service
        self._room = asyncio.Semaphore(AT_ONCE)
        self._deadline = Deadline.after(service.limits.max_timeout_s)

    async def caption(self, image: Any, options: Mapping[str, Any], request_id: str) -> CaptionBody:
        """Raises what `CaptionService.caption` raises; what is over in a moment is waited for."""
        async with self._deadline.enforced(UNDONE), self._room:
            while True:
                try:
                    return await self._service.caption(image, options, request_id, queue_until=self._deadline)
                except TryLater as error:
                    if error.retry_after_s is None or error.retry_after_s > SOON_S:
                        raise
                    await asyncio.sleep(error.retry_after_s)
