"""`x-request-id`: taken from the caller when it is sane, made otherwise, and sent back."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-request-id"
_KEY = "caption_serve.request_id"
SANE = re.compile(rb"^[\x21-\x7e]{1,128}$")


def request_id(scope: Scope) -> str:
    """The id of the request with this scope."""
    return str(scope.get(_KEY, ""))


class RequestIdMiddleware:
    """Gives every HTTP request an id and, with `respond`, every response its header."""

    def __init__(self, app: ASGIApp, respond: bool = True) -> None:
        self._app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(HEADER.encode(), b"")
        # A server that sends the header itself sends what it was given, so that is the request's id then.
        taken = bool(given) and (not self._respond or SANE.match(given) is not None)
        scope[_KEY] = given.decode("latin-1") if taken else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = scope[_KEY]
            await send(message)

        await self._app(scope, receive, send_with_id if self._respond else send)
