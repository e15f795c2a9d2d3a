"""The routes of the OpenAI-compatible endpoints."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve_app.errors import CaptionServeError, ModelUnknown
from serve_app.http import problems
from serve_app.http.description import PIXEL, REFERENCE, event_stream
from serve_app.http.disconnect import ClientGone, while_connected
from serve_app.http.middleware.request_id import request_id
from serve_app.http.openai.errors import refuse
from serve_app.http.openai.request import ChatCaptions, read_chat
from serve_app.http.openai.run import run
from serve_app.http.openai.schemas import Completion, Model, ModelList
from serve_app.http.openai.stream import chunks, start
from serve_app.http.streams import EVENT_STREAM, PING_S
from serve_app.service.captions import CaptionService

ALIAS = "caption-serve"
"""Names the served model, whichever it is."""
REFUSED_AT_ONCE_S = 0.05
"""A streamed answer begins this late, so that a full service can still answer with its status."""

router = APIRouter()

_EXAMPLE = {
    "model": ALIAS,
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]}],
}
# What is 422 elsewhere is 400 here.
_PROBLEMS = problems.responses({*problems.STATUSES} - {422})


@router.post(
    "/v1/chat/completions",
    response_model=Completion,
    responses={
        200: {"content": {EVENT_STREAM: {"schema": event_stream("chunks, and [DONE] as the last")}}},
        **_PROBLEMS,
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"{REFERENCE}ChatRequest"},
                    "example": _EXAMPLE,
                }
            },
        }
    },
    summary="Caption the images of a chat, in OpenAI's shape",
)
async def completions(request: Request) -> Response:
    """`usage` counts words, and 85 for each image. Sampling parameters are taken and ignored."""
    service: CaptionService = request.app.state.service
    name = request_id(request.scope)
    try:
        wanted = await read_chat(request, service.limits, request.app.state.fetcher)
        model = await _model(service, wanted.chat.model)
        if wanted.chat.stream:
            return await _stream(service, wanted, model, name)
        choices, usage = await while_connected(request, run(service, wanted, name))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    except CaptionServeError as error:
        return await refuse(request, error)
    answer = Completion(id=f"chatcmpl-{name}", created=int(time.time()), model=model, choices=choices, usage=usage)
    return JSONResponse(answer.model_dump())


async def _stream(service: CaptionService, wanted: ChatCaptions, model: str, name: str) -> Response:
    running = start(service, wanted, name)
    await asyncio.wait({running}, timeout=REFUSED_AT_ONCE_S)
    if running.done() and (error := running.exception()) is not None:
        raise error
    events = chunks(service, wanted, running, model, name)
    return EventSourceResponse((ServerSentEvent(data, sep="\n") async for data in events), ping=PING_S)


@router.get(
    "/v1/models",
    response_model=ModelList,
    responses={401: _PROBLEMS[401], 503: _PROBLEMS[503]},
    summary="The served model",
)
async def models(request: Request) -> Response:
    service: CaptionService = request.app.state.service
    try:
        name = (await service.info()).name
    except CaptionServeError as error:
        return await refuse(request, error)
    return JSONResponse(ModelList(data=[Model(id=name)]).model_dump())


@router.get(
    "/v1/models/{model:path}",
    response_model=Model,
    responses={status: _PROBLEMS[status] for status in (401, 404, 503)},
    summary="One model",
)
async def model(request: Request, model: str) -> Response:
    service: CaptionService = request.app.state.service
    try:
        name = await _model(service, model)
    except CaptionServeError as error:
        return await refuse(request, error)
    return JSONResponse(Model(id=name).model_dump())


async def _model(service: CaptionService, asked: str) -> str:
    """The served model's name. Raises `ModelUnknown` if another one is asked for."""
    name = (await service.info()).name
    if asked not in (name, ALIAS):
        raise ModelUnknown(f"The model {asked[:100]!r} is not served here; this is {name!r}.")
    return name
