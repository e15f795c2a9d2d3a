"""Turns requests away before anything is spent on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import CaptionServeError, ImageTooLarge, Overloaded
from serve_app.http.body import OVERHEAD_BYTES, discard
from serve_app.http.incoming import Incoming, Uploads
from serve_app.http.paths import BATCH, CAPTIONS, MCP, route_path
from serve_app.http.preferences import prefers_async
from serve_app.service.captions import CaptionService
from serve_app.tasks import TASKS

Refuse = Callable[[Request, CaptionServeError], Awaitable[Response]]
"""Makes the response to a rejected request."""
DISCARD_S = 5.0
"""How long a full service takes in the body of a request that it refuses."""


_OTHERS = frozenset((*(task.path for task in TASKS if not task.by_captioner), BATCH, MCP))
"""Routes whose work other deployments do, with queues of their own; batches wait for capacity, and agents are told by
the tool."""


class GateMiddleware:
    """Rejects POSTs while there is no capacity for any caption, or no memory for their body.

    At ten times the load nine of ten end here.
    """

    def __init__(self, app: ASGIApp, service: CaptionService, refuse: Refuse, has_jobs: bool = False) -> None:
        self._app = app
        self._has_jobs = has_jobs
        self._service = service
        self._refuse = refuse
        self._uploads = Uploads()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        limits = self._service.limits
        accepted = max(limits.max_batch_bytes, limits.max_image_bytes) * 4 // 3 + OVERHEAD_BYTES
        body = Incoming(scope, receive, self._uploads, self._service.bodies, limits.body_memory_bytes, accepted)
        try:
            try:
                if route_path(scope) not in _OTHERS and not self._may_wait(scope):
                    self._service.check_capacity()
                body.take_declared()
            except (Overloaded, ImageTooLarge) as error:
                await self._turn_away(Request(scope, receive), error, send)
                return
            await self._app(scope, body.receive, send)
        finally:
            body.close()

    def _may_wait(self, scope: Scope) -> bool:
        """Whether the caption may be made later."""
        return self._has_jobs and route_path(scope) == CAPTIONS and prefers_async(Headers(scope=scope))

    async def _turn_away(self, request: Request, error: CaptionServeError, send: Send) -> None:
        # A client that still sends would see a broken connection instead of the answer; a slow one has to.
        with contextlib.suppress(TimeoutError, ImageTooLarge, ClientDisconnect):
            async with asyncio.timeout(DISCARD_S):
                await discard(request, self._service.limits)
        await (await self._refuse(request, error))(request.scope, request.receive, send)
