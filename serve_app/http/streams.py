"""Answers that come in pieces: server-sent events and lines of JSON."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from serve_app.contract import ErrorEvent, ResultEvent, StepEvent
from serve_app.errors import CaptionServeError
from serve_app.http import problems
from serve_app.http.batches import BatchImage, batch_lines
from serve_app.http.disconnect import while_connected
from serve_app.http.middleware.request_id import request_id
from serve_app.service.captions import CaptionService

logger = logging.getLogger(__name__)

KEEP_ALIVE = " "
"""Sent between lines of JSON, where every parser takes it for a part of the next one."""
PING_S = 10
"""A comment is sent after so many seconds, so that no proxy takes a quiet stream for a dead one."""
EVENT_STREAM = "text/event-stream"
NDJSON = "application/x-ndjson"
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_REFUSED = re.compile(r";q=0(\.0*)?(;|$)")
"""A weight of 0 says that a type is not wanted (RFC 9110, 12.4.2)."""

Events = AsyncGenerator[StepEvent | ResultEvent, None]


def wants_events(request: Request) -> bool:
    """True when the caller accepts server-sent events."""
    kinds = request.headers.get("accept", "").lower().replace(" ", "").split(",")
    return any(kind.partition(";")[0] == EVENT_STREAM and not _REFUSED.search(kind) for kind in kinds)


async def event_response(request: Request, events: Events) -> Response:
    """The events as server-sent events. Errors before the first one are raised, later ones are the last event."""
    first = await while_connected(request, anext(events))
    return EventSourceResponse(_sent(request, first, events), ping=PING_S, headers=_HEADERS)


async def _sent(request: Request, first: StepEvent | ResultEvent, events: Events) -> AsyncGenerator[ServerSentEvent]:
    try:
        yield _server_sent(first)
        async for event in events:
            yield _server_sent(event)
    except CaptionServeError as error:
        service: CaptionService = request.app.state.service
        yield _server_sent(
            ErrorEvent(**problems.body_of(error, request_id(request.scope), service.limits).model_dump())
        )
    except Exception as error:
        logger.error("request %s failed", request_id(request.scope), exc_info=error)
        yield _server_sent(ErrorEvent(**problems.bug_body(request_id(request.scope)).model_dump()))
    finally:
        await events.aclose()


def _server_sent(event: StepEvent | ResultEvent | ErrorEvent) -> ServerSentEvent:
    return ServerSentEvent(event.model_dump_json(exclude={"event"}), event=event.event, sep="\n")


def batch_response(
    request: Request, service: CaptionService, parts: list[BatchImage], options: dict[str, object]
) -> Response:
    """A line of JSON for each image, as it is done."""

    async def lines() -> AsyncGenerator[str]:
        found = batch_lines(service, parts, options, request_id(request.scope))
        following = asyncio.ensure_future(anext(found, None))
        try:
            while True:
                done, _ = await asyncio.wait({following}, timeout=PING_S)
                if not done:
                    yield KEEP_ALIVE
                elif (line := following.result()) is None:
                    return
                else:
                    yield line.model_dump_json() + "\n"
                    following = asyncio.ensure_future(anext(found, None))
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await found.aclose()

    return StreamingResponse(lines(), media_type=NDJSON, headers=_HEADERS)
