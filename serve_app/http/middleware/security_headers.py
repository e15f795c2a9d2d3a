"""Headers that keep browsers from doing more with an answer than is meant."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.paths import route_path

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
PAGE_POLICY = "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
"""Gradio's page writes scripts and styles of its own into itself."""
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_DOCS = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data: https://fastapi.tiangolo.com; "
    "script-src 'unsafe-inline' https://cdn.jsdelivr.net; style-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "frame-ancestors 'none'"
)
"""FastAPI's page of the API's description loads Swagger from there."""


class SecurityHeadersMiddleware:
    """Adds the headers that an answer does not have itself."""

    def __init__(self, app: ASGIApp, policy: str | None = None) -> None:
        """`policy` is the Content-Security-Policy of every path, instead of the API's."""
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        policy = self._policy or (_DOCS if path.startswith("/docs") else _NOTHING)
        wanted = {**_ALWAYS, "Content-Security-Policy": policy}
        if path.startswith(("/v1/", "/mcp")):
            wanted["Cache-Control"] = "no-store"

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in wanted.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
