"""A line in the log for each request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.http.middleware.request_id import request_id
from serve_app.limits import Limits
from serve_app.service.quota import CALLER
from serve_app.service.record import RECORD, Record

logger = logging.getLogger(__name__)

QUIET_PATHS = ("/healthz", "/readyz")
"""Asked every few seconds; only their failures are worth a line."""
CLIENT_GONE = 499


class AccessLogMiddleware:
    """Logs id, key, route, status, time and bytes, and what was captioned; with `extra` fields of the same names."""

    def __init__(self, app: ASGIApp, limits: Callable[[], Limits]) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status, received, sent = time.perf_counter(), CLIENT_GONE, 0, 0
        record = Record()

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counted_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                if record.cache is not None:
                    MutableHeaders(scope=message)["x-cache"] = record.cache
            sent += len(message.get("body", b""))
            await send(message)

        token = RECORD.set(record)
        try:
            await self._app(scope, counted_receive, counted_send)
        except BaseException:
            status = 500 if status == CLIENT_GONE else status
            raise
        finally:
            RECORD.reset(token)
            self._log(scope, status, (time.perf_counter() - start) * 1000, received, sent, record)

    def _log(self, scope: Scope, status: int, ms: float, received: int, sent: int, record: Record) -> None:
        wanted = self._limits().access_log
        quiet = status < 400 and (wanted == "errors" or scope["path"].endswith(QUIET_PATHS))
        if wanted == "none" or quiet:
            return
        caller = scope.get(CALLER.name)
        fields = {
            "request": request_id(scope),
            "key": caller.key.name if caller is not None else None,
            "method": scope["method"],
            "route": getattr(scope.get("route"), "path", None),
            "status": status,
            "ms": round(ms, 1),
            "bytes_received": received,
            "bytes_sent": sent,
            "strategy": record.strategy,
            "captions": record.captions or None,
            "rows": record.rows or None,
            "degraded": record.degraded or None,
            "cache": record.cache,
        }
        told = {name: value for name, value in fields.items() if value is not None}
        level = logging.WARNING if status >= 500 else logging.INFO
        logger.log(level, " ".join(f"{name}={value}" for name, value in told.items()), extra=told)
