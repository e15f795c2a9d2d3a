"""One request from raw image and options to the answer's body; shared by HTTP, handle and command line."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from serve_app.api import images
from serve_app.api.admission import Admission
from serve_app.api.readiness import Readiness
from serve_app.api.schemas import CaptionBody, parse_options
from serve_app.errors import DeadlineExceeded
from serve_app.types import Captioner, Limits, Pixels

INTAKE_THREADS = 4
"""Images decoded at once; bounds the memory that decoding takes."""


class CaptionService:
    """Validates, admits, decodes off the event loop, and captions."""

    def __init__(
        self, captioner: Captioner, limits: Limits | None = None, capacity: Callable[[], float] = lambda: math.inf
    ) -> None:
        """`capacity` is how much work (see `Captioner.work`) may be in progress."""
        self.limits = limits or Limits()
        self.readiness = Readiness(captioner)
        self.admission = Admission(capacity)
        self._captioner = captioner
        self._threads = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")

    async def caption(self, image: Any, options: Mapping[str, Any], request_id: str | None = None) -> CaptionBody:
        """Captions bytes, a PIL image or a uint8 array. Raises `RequestError`s and `ServiceError`s."""
        start = time.perf_counter()
        captioner, limits = self._captioner, self.limits  # of one configuration from the first step to the last
        resolved = parse_options(dict(options), limits)
        with self.admission.admit(captioner.work(resolved)):
            pixels = await self._intake(image, captioner, limits, resolved.timeout_s)
            took_s = time.perf_counter() - start
            remaining = replace(resolved, timeout_s=max(0.0, resolved.timeout_s - took_s))
            result = await captioner.caption(pixels, remaining)
        self.readiness.worked()
        return CaptionBody.of(result, request_id or uuid.uuid4().hex, took_s * 1000)

    def reconfigure(self, captioner: Captioner, limits: Limits) -> None:
        """Later requests meet the new limits and captioner; those in progress end as they began."""
        self._captioner = captioner
        self.limits = limits
        self.readiness.reconfigure(captioner)

    async def _intake(self, image: Any, captioner: Captioner, limits: Limits, timeout_s: float) -> Pixels:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                model = await captioner.info()
                return await loop.run_in_executor(self._threads, images.read, image, limits, model)
        except TimeoutError:
            raise DeadlineExceeded("The request's time ran out before its image was read.") from None

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
