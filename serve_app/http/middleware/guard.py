"""Lets in those who have an API key."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Awaitable, Callable
from typing import Literal

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.errors import CaptionServeError, ImageTooLarge, QuotaExceeded, Unauthorized
from serve_app.http import problems
from serve_app.http.body import discard
from serve_app.http.paths import route_path
from serve_app.limits import Limits
from serve_app.service.keys import KeyStore
from serve_app.service.quota import Quota

OPEN_PATHS = ("/healthz", "/readyz")
"""For load balancers, which have no key."""
DISCARD_S = 5.0
KEY_NAME = "caption_serve.key"
"""Where the scope has the name of the request's key."""

Refuse = Callable[[Request, CaptionServeError], Awaitable[Response]]


class GuardMiddleware:
    """Asks every route but `OPEN_PATHS` for a key, and counts the requests of each key.

    `challenge` is what a browser is told to send: with "Basic" the password is the key.
    """

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyStore,
        quota: Quota,
        limits: Callable[[], Limits],
        refuse: Refuse = problems.on_error,
        challenge: Literal["Bearer", "Basic"] = "Bearer",
    ) -> None:
        self._app = app
        self._keys = keys
        self._quota = quota
        self._limits = limits
        self._refuse = refuse
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        name = self._name(scope)
        if scope["type"] == "websocket":
            if name is None:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if name is None:
            await self._turn_away(request, Unauthorized("This service asks for an API key that it knows."), send)
            return
        scope[KEY_NAME] = name
        try:
            held = contextlib.ExitStack()
            held.enter_context(self._quota.hold(name, self._limits()))
        except QuotaExceeded as error:
            await self._turn_away(request, error, send)
            return
        with held:
            await self._app(scope, receive, send)

    def _is_open(self, scope: Scope) -> bool:
        return scope.get("method") in ("GET", "HEAD") and route_path(scope) in OPEN_PATHS

    def _name(self, scope: Scope) -> str | None:
        given = {key for key in (self._given(name, value) for name, value in scope["headers"]) if key is not None}
        return self._keys.check(given.pop()) if len(given) == 1 else None

    def _given(self, name: bytes, value: bytes) -> str | None:
        """The key that a header holds, "" for a header that should hold one."""
        text = value.decode("latin-1").strip()
        if name == b"x-api-key":
            return text
        if name != b"authorization":
            return None
        scheme, _, rest = text.partition(" ")
        if scheme.lower() == "bearer":
            return rest.strip()
        if scheme.lower() == "basic" and self._challenge == "Basic":
            try:
                return base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, ValueError):
                return ""
        return ""

    async def _turn_away(self, request: Request, error: CaptionServeError, send: Send) -> None:
        # A client that still sends would see a broken connection instead of the answer.
        with contextlib.suppress(TimeoutError, ImageTooLarge, ClientDisconnect):
            async with asyncio.timeout(DISCARD_S):
                await discard(request, self._limits())
        response = await self._refuse(request, error)
        if isinstance(error, Unauthorized):
            # One challenge only: Chromium ignores a header with two.
            response.headers["WWW-Authenticate"] = f'{self._challenge} realm="caption-serve"'
        await response(request.scope, request.receive, send)
