"""The Model Context Protocol endpoint: tools for LLM agents, over streamable HTTP at `/mcp`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

import serve_app
from serve_app.contract import CaptionBody, ClauseBody, ContestedBody, ResultEvent
from serve_app.errors import CaptionServeError
from serve_app.http import problems
from serve_app.http.body import OVERHEAD_BYTES, read_bounded
from serve_app.http.disconnect import ClientGone, while_connected
from serve_app.http.json_size import check_json_size
from serve_app.http.paths import MCP
from serve_app.options import constraints, given, offered, signed
from serve_app.service.captions import CaptionService
from serve_app.service.fetch import Fetcher
from serve_app.service.sources import RemoteImage, image_of
from serve_app.service.tasks import TaskService
from serve_app.tasks import TASKS, Task

INSTRUCTIONS = "Tools that look at an image for you and say in words what is in it."

IMAGE = "data URI or base64 of the file; or an http(s) URL, if the service fetches those"

PROGRESS = b'"progressToken"'
"""In the request of a client that wants to be told of progress."""

Find = Callable[[str], Awaitable[bytes | RemoteImage]]
_NOT_OFFERED = (
    "prompts/list",
    "prompts/get",
    "resources/list",
    "resources/read",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
)
"""Methods of the protocol that the SDK has handlers for, with nothing behind them."""


class ToolCaption(BaseModel):
    """What `caption_image` returns."""

    caption: str
    clauses: list[ClauseBody]
    contested: list[ContestedBody] = Field(description="statements that were left out for a contradiction")
    degraded: list[str] = Field(description="what is missing from this answer and why")
    notices: list[str] = Field(description="what else a reader should know")
    seed: int


def mount_mcp(app: FastAPI, allowed_origins: Sequence[str] = ()) -> None:
    """Serves `/mcp`. Each request is answered by itself, so that any replica may answer any request.

    Web pages may call it from `allowed_origins` only, "*" for all.
    """
    fetcher: Fetcher = app.state.fetcher
    server = tool_server(app.state.service, app.state.tasks, lambda image: image_of(image, fetcher), IMAGE)

    async def checked(request: Request) -> Response:
        origin = request.headers.get("origin")
        if origin is not None and "*" not in allowed_origins and origin not in (*allowed_origins, _own(request)):
            return problems.problem(request, 403, "origin-not-allowed", "Web pages of this origin may not call it.")
        limits = request.app.state.service.limits
        most = limits.max_image_bytes * 4 // 3 + OVERHEAD_BYTES
        try:
            body = await read_bounded(request, most, limits.max_image_bytes)
        except ClientDisconnect:
            return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
        check_json_size(body)
        return _Exchange(server, request, bytes(body))

    app.add_route(MCP, checked, methods=["POST"], include_in_schema=False)


class _Exchange(Response):
    """The SDK's answer to one request, for as long as its client stays."""

    def __init__(self, server: MCPServer, request: Request, body: bytes) -> None:
        super().__init__()
        self._server = server
        self._request = request
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        given = asyncio.Event()

        async def replayed() -> Message:
            if not given.is_set():
                given.set()
                return {"type": "http.request", "body": self._body, "more_body": False}
            await asyncio.Event().wait()
            raise AssertionError("the client's leaving is watched elsewhere")

        async def exchange() -> None:
            manager = StreamableHTTPSessionManager(
                self._server._lowlevel_server,
                json_response=PROGRESS not in self._body,  # events for a client that wants to hear of it
                stateless=True,
                max_request_body_size=len(self._body) + 1,
            )
            async with manager.run():
                await manager.handle_request(scope, replayed, send)

        with contextlib.suppress(ClientGone):
            await while_connected(self._request, exchange())


def _own(request: Request) -> str:
    """The origin of pages that this service serves itself."""
    return f"{request.url.scheme}://{request.headers.get('host', '')}"


def tool_server(captions: CaptionService, tasks: TaskService, find: Find, image_is: str) -> MCPServer:
    """The tools, over any transport. `find` makes an image of their argument `image`, which `image_is` describes."""
    # Else each request is logged in several lines.
    logging.getLogger("mcp").setLevel(logging.WARNING)
    server = MCPServer("caption-serve", log_level="WARNING", version=serve_app.__version__, instructions=INSTRUCTIONS)
    for method in _NOT_OFFERED:  # what has a handler is announced
        server._lowlevel_server._request_handlers.pop(method, None)
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)

    async def caption_image(image: str, context: Context, **options: Any) -> Annotated[CallToolResult, ToolCaption]:
        """Look at an image and get a long, accurate description of what is in it.

        Use it whenever you have an image that you cannot see yourself. The text is the caption; the structured content
        has its clauses with where each came from, what was left out for a contradiction, and what is missing, if
        anything.
        """
        try:
            body = await _followed(captions, await find(image), given(options), context)
        except CaptionServeError as error:
            raise ToolError(error.message) from error
        found = ToolCaption.model_validate(body, from_attributes=True)
        return CallToolResult(
            content=[TextContent(type="text", text=body.caption)], structured_content=found.model_dump()
        )

    caption_image.__annotations__.update(image=Annotated[str, Field(description=image_is)], context=Context)
    described = {
        name: Annotated[(field.annotation, *constraints(field), Field(description=field.description))]
        for name, field in offered("mcp").items()
    }
    server.tool(title="Describe an image", annotations=reads)(signed(caption_image, described))

    for task in TASKS:
        if task.tool is not None and task.name in tasks.names:
            tool = _tool(tasks, task, find, image_is)
            server.tool(task.tool.name, task.tool.title, task.tool.description, annotations=reads)(tool)
    return server


async def _followed(
    captions: CaptionService, image: bytes | RemoteImage, options: dict[str, Any], context: Context
) -> CaptionBody:
    """The caption; a client that wants to hear of progress is told of each step."""
    if (context.request_context.meta or {}).get("progress_token") is None:
        return await captions.caption(image, options)
    events = captions.events(image, options)
    async with contextlib.aclosing(events):
        number = 0
        async for event in events:
            if isinstance(event, ResultEvent):
                return event
            number += 1
            await context.report_progress(number, message=event.event)
    raise AssertionError("the last event is the result")


def _tool(tasks: TaskService, task: Task, find: Find, image_is: str) -> Callable[..., Any]:
    tool = task.tool
    assert tool is not None
    subject = task.options.model_fields[task.subject]
    described: Any = Annotated[(subject.annotation, *subject.metadata, Field(description=subject.description))]

    async def answer(image: str, **options: Any) -> CallToolResult:
        try:
            body: BaseModel = await getattr(tasks, task.method)(await find(image), options)
        except CaptionServeError as error:
            raise ToolError(error.message) from error
        return CallToolResult(
            content=[TextContent(type="text", text=tool.text(body))], structured_content=body.model_dump()
        )

    answer.__annotations__["image"] = Annotated[str, Field(description=image_is)]
    returns: Any = Annotated[CallToolResult, task.body]
    return signed(answer, {task.subject: described}, required=True, returns=returns)
