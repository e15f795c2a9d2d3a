"""Whether a generate works: the answer of `/readyz`."""

from __future__ import annotations

import asyncio
import time

from serve_app.errors import CaptionServeError
from serve_app.types import Captioner

FRESH_S = 15.0
"""A generate that worked counts for this long; older knowledge is renewed by a probe."""
PATIENCE_S = 5.0
"""A question waits this long for a running probe, then the answer is no; the probe goes on."""


class Readiness:
    """Probes the generate path at most one call at a time."""

    def __init__(self, captioner: Captioner) -> None:
        self._captioner = captioner
        self._worked_at = float("-inf")
        self._probe: asyncio.Task[None] | None = None

    def worked(self) -> None:
        """Tells that a request was answered."""
        self._worked_at = time.monotonic()

    async def reason_not_ready(self) -> str | None:
        """None when the generate path works, else a sentence."""
        if time.monotonic() - self._worked_at < FRESH_S:
            return None
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._captioner.probe())
        await asyncio.wait({self._probe}, timeout=PATIENCE_S)
        if not self._probe.done():
            return "The model is starting or busy; no generate has worked yet."
        error = self._probe.exception()
        if error is None:
            self.worked()
            return None
        return error.message if isinstance(error, CaptionServeError) else "A generate failed."
