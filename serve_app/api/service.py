"""One request from raw image and options to the answer's body; shared by HTTP, handle and command line."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from serve_app.api import images
from serve_app.api.readiness import Readiness
from serve_app.api.schemas import CaptionBody, parse_options
from serve_app.errors import DeadlineExceeded
from serve_app.types import Captioner, Limits, Pixels

INTAKE_THREADS = 4
"""Images decoded at once; bounds the memory that decoding takes."""


class CaptionService:
    """Validates, decodes off the event loop, and captions."""

    def __init__(self, captioner: Captioner, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.readiness = Readiness(captioner)
        self._captioner = captioner
        self._threads = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")

    async def caption(self, image: Any, options: Mapping[str, Any], request_id: str | None = None) -> CaptionBody:
        """Captions bytes, a PIL image or a uint8 array. Raises `RequestError`s and `ServiceError`s."""
        start = time.perf_counter()
        resolved = parse_options(dict(options), self.limits)
        pixels = await self._intake(image, resolved.timeout_s)
        took_s = time.perf_counter() - start
        remaining = replace(resolved, timeout_s=max(0.0, resolved.timeout_s - took_s))
        result = await self._captioner.caption(pixels, remaining)
        self.readiness.worked()
        return CaptionBody.of(result, request_id or uuid.uuid4().hex, took_s * 1000)

    async def _intake(self, image: Any, timeout_s: float) -> Pixels:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                model = await self._captioner.info()
                return await loop.run_in_executor(self._threads, images.read, image, self.limits, model)
        except TimeoutError:
            raise DeadlineExceeded("The request's time ran out before its image was read.") from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
