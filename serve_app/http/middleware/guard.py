"""Lets in those who have an API key."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import CaptionServeError, ImageTooLarge, ServiceError, Unauthorized
from serve_app.http import problems
from serve_app.http.body import discard
from serve_app.http.paths import route_path
from serve_app.limits import Limits
from serve_app.service.keys import Key, KeyStore
from serve_app.service.quota import CALLER, OWNER, Caller

OPEN_PATHS = ("/healthz", "/readyz")
"""For load balancers, which have no key."""
DISCARD_S = 5.0
KEY_HEADERS = (b"x-api-key", b"api-key")
"""Besides `Authorization`; the second one is that of Azure's clients."""
_BROWSERS = ("/docs", "/openapi.json")
"""Paths of the API that a browser opens: it is asked for a password, which is the key."""

Refuse = Callable[[Request, CaptionServeError], Awaitable[Response]]
Check = Callable[[Sequence[str]], Awaitable[Key | None]]
"""The first of the given keys that is known. Raises `ServiceError` if nobody can say."""


def check_of(keys: KeyStore) -> Check:
    """By the keys of this process."""

    async def check(given: Sequence[str]) -> Key | None:
        return next((key for key in map(keys.check, given) if key is not None), None)

    return check


class GuardMiddleware:
    """Asks every route but `OPEN_PATHS` for a key.

    A key is given as `Authorization: Bearer`, as the password of `Authorization: Basic`, or in one of `KEY_HEADERS`; if
    there are several, one that is known is enough. With `needed` false nobody has to have one.
    """

    def __init__(
        self,
        app: ASGIApp,
        check: Check,
        limits: Callable[[], Limits],
        refuse: Refuse = problems.on_error,
        *,
        browser: bool = False,
        needed: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        """`browser`: every path is for browsers."""
        self._app = app
        self._check = check
        self._limits = limits
        self._refuse = refuse
        self._browser = browser
        self._needed = needed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            if self._needed is not None and not await self._needed():
                await self._app(scope, receive, send)
                return
            key = await self._check([given for given in _given(scope["headers"]) if given])
        except ServiceError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1013})
                return
            await self._turn_away(Request(scope, receive), error, send)
            return
        if scope["type"] == "websocket":
            if key is None:
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._app(scope, receive, send)
            return
        if key is None:
            unknown = Unauthorized("This service asks for an API key that it knows.")
            await self._turn_away(Request(scope, receive), unknown, send)
            return
        caller = Caller(key)

        async def send_with_quota(message: Message) -> None:
            if message["type"] == "http.response.start" and caller.told:
                MutableHeaders(scope=message).update(caller.told)
            await send(message)

        token, owner = CALLER.set(caller), OWNER.set(key.name)
        scope[CALLER.name] = caller
        try:
            await self._app(scope, receive, send_with_quota)
        finally:
            CALLER.reset(token)
            OWNER.reset(owner)

    def _is_open(self, scope: Scope) -> bool:
        return not self._browser and scope.get("method") in ("GET", "HEAD") and route_path(scope) in OPEN_PATHS

    async def _turn_away(self, request: Request, error: CaptionServeError, send: Send) -> None:
        # A client that still sends would see a broken connection instead of the answer.
        with contextlib.suppress(TimeoutError, ImageTooLarge, ClientDisconnect):
            async with asyncio.timeout(DISCARD_S):
                await discard(request, self._limits())
        response = await self._refuse(request, error)
        if isinstance(error, Unauthorized):
            scheme = "Basic" if self._browser or route_path(request.scope) in _BROWSERS else "Bearer"
            # One challenge only: Chromium ignores a header with two.
            response.headers["WWW-Authenticate"] = f'{scheme} realm="caption-serve"'
        await response(request.scope, request.receive, send)


def _given(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    """The keys that the headers hold."""
    for name, value in headers:
        text = value.decode("latin-1").strip()
        if name in KEY_HEADERS:
            yield text
        elif name == b"authorization":
            scheme, _, rest = text.partition(" ")
            if scheme.lower() == "bearer":
                yield rest.strip()
            elif scheme.lower() == "basic":
                with contextlib.suppress(binascii.Error, ValueError):
                    yield base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")[2]
