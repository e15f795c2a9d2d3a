"""What Serve's proxies run before anything else; RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares`."""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http.middleware.request_id import HEADER, SANE

ORDERS = frozenset((b"x-request-timeout-seconds", b"x-request-disconnect-disabled"))
"""Headers by which anybody could tell Serve to wait for ever, or to work on for a client that has left."""


class HeaderGuard:
    """Drops an `x-request-id` that no log can show (Serve decodes it as UTF-8 and answers 500 if that fails), and
    `ORDERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = HEADER.encode()
            kept = [
                (key, value)
                for key, value in scope["headers"]
                if (SANE.match(value) if key == name else key not in ORDERS)
            ]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """Serve calls it when a proxy starts."""
    return [Middleware(HeaderGuard)]
