"""One request from raw image and options to the answer's body; shared by HTTP, handle and command line."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serve_app.api import images
from serve_app.api.readiness import Readiness
from serve_app.api.schemas import CaptionBody, parse_options
from serve_app.types import Captioner, Limits

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
        model = await self._captioner.info()
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._threads, images.read, image, self.limits, model)
        intake_ms = (time.perf_counter() - start) * 1000
        result = await self._captioner.caption(pixels, resolved)
        self.readiness.worked()
        return CaptionBody.of(result, request_id or uuid.uuid4().hex, intake_ms)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
