"""Turns requests away before anything is spent on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import CaptionServeError, ImageTooLarge, Overloaded
from serve_app.http.body import discard
from serve_app.http.paths import BATCH, route_path
from serve_app.service.budget import Budget
from serve_app.service.captions import CaptionService
from serve_app.tasks import TASKS

Refuse = Callable[[Request, CaptionServeError], Awaitable[Response]]
"""Makes the response to a rejected request."""
JSON_COPIES = 3
"""Of a JSON body in memory: as it came, parsed, and its images decoded from base64."""
DISCARD_S = 5.0
"""How long a full service takes in the body of a request that it refuses."""


_OTHERS = frozenset((*(task.path for task in TASKS if not task.by_captioner), BATCH))
"""Routes whose work other deployments do, with queues of their own; batches wait for capacity."""


class GateMiddleware:
    """Rejects POSTs while there is no capacity for any caption, or no memory for their body.

    At ten times the load nine of ten end here.
    """

    def __init__(self, app: ASGIApp, service: CaptionService, refuse: Refuse) -> None:
        self._app = app
        self._service = service
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = BodyMemory(scope, receive, self._service.bodies, self._service.limits.body_memory_bytes)
        try:
            if route_path(scope) not in _OTHERS:
                self._service.admission.check()
            body.take_declared()
        except Overloaded as error:
            request = Request(scope, receive)
            # A client that still sends would see a broken connection instead of the answer; a slow one has to.
            with contextlib.suppress(TimeoutError, ImageTooLarge, ClientDisconnect):
                async with asyncio.timeout(DISCARD_S):
                    await discard(request, self._service.limits)
            await (await self._refuse(request, error))(scope, receive, send)
            return
        try:
            await self._app(scope, body.receive, send)
        finally:
            body.give_back()


class BodyMemory:
    """What the body of one request takes of a budget: as much as it declares at once, or more as it comes."""

    def __init__(self, scope: Scope, receive: Receive, budget: Budget, most: int) -> None:
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        self._copies = JSON_COPIES if b"json" in headers.get(b"content-type", b"").lower() else 1
        self._declared = int(declared) if declared.isdigit() else 0
        self._receive = receive
        self._budget = budget
        self._most = most
        self._come = 0
        self._taken = 0

    def take_declared(self) -> None:
        """Raises `Overloaded`."""
        self._take(self._declared)

    async def receive(self) -> Message:
        """Raises `Overloaded` for a body that comes without its length and finds no memory left."""
        message = await self._receive()
        self._come += len(message.get("body", b""))
        if self._come > self._declared:
            self._take(self._come)
        return message

    def give_back(self) -> None:
        self._budget.give_back(self._taken)

    def _take(self, size: int) -> None:
        more = size * self._copies - self._taken
        if more > 0:
            self._budget.take(more, self._most)
            self._taken += more
