"""Whether a generate has worked: the answer of `/readyz`."""

from __future__ import annotations

import asyncio
import contextvars
import time

from serve_app.errors import CaptionServeError, DeadlineExceeded, Overloaded
from serve_app.steps import Captioner

FRESH_S = 15.0
"""A generate that worked counts for this long; older knowledge is renewed by a probe."""
PATIENCE_S = 5.0
"""A question waits this long for a running probe, which goes on after it."""


class Readiness:
    """Probes the generate path, one call at a time.

    Once a generate has worked, only one that fails makes the answer no: a probe that waits behind
    real work says that the service is busy, and a busy service must not leave its load balancer.
    """

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner
        self._worked_at: float | None = None
        self._probe: asyncio.Task[None] | None = None

    def reconfigure(self, captioner: Captioner) -> None:
        """Later probes go to this captioner."""
        self._captioner = captioner

    def worked(self) -> None:
        """Tells that a request was answered."""
        self._worked_at = time.monotonic()

    async def reason_not_ready(self) -> str | None:
        """None when the generate path works, else a sentence."""
        if self._worked_at is not None and time.monotonic() - self._worked_at < FRESH_S:
            return None
        if self._probe is None or self._probe.done():
            # In a context of its own: Serve cancels what runs in a request's context when its client leaves.
            self._probe = asyncio.create_task(self._captioner.probe(), context=contextvars.Context())
        await asyncio.wait({self._probe}, timeout=PATIENCE_S)
        if not self._probe.done():
            busy = self._worked_at is not None
            return None if busy else "The model is starting; no generate has worked yet."
        if self._probe.cancelled():
            return "The test generate was cancelled."
        error = self._probe.exception()
        if error is None:
            self.worked()
            return None
        if isinstance(error, Overloaded) or (self._worked_at and isinstance(error, DeadlineExceeded)):
            return None  # busy
        self._worked_at = None
        return error.message if isinstance(error, CaptionServeError) else "A generate failed."
