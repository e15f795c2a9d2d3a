"""Requests for the names that the service has, and no others."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.http import problems
from serve_app.http.middleware.guard import OPEN_PATHS
from serve_app.http.paths import route_path

MISDIRECTED = 421


class HostMiddleware:
    """Refuses requests whose `Host` is none of the names: a page whose name was made to lead to this machine (DNS
    rebinding) sends its own. `*.example.org` stands for all names below."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self._app = app
        self._hosts = tuple(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = scope["type"] in ("http", "websocket") and not route_path(scope).endswith(OPEN_PATHS)
        if named and not self._knows(_host(scope)):
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            detail = "This service does not answer for that host; the setting `allowed_hosts` names those that it has."
            response = problems.problem(Request(scope, receive), MISDIRECTED, "misdirected", detail)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _knows(self, host: str) -> bool:
        return any(host == known or (known.startswith("*.") and host.endswith(known[1:])) for known in self._hosts)


def _host(scope: Scope) -> str:
    """The name in `Host`, without the port."""
    given: str = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    return given.rpartition("]")[0] + "]" if given.startswith("[") else given.partition(":")[0]
