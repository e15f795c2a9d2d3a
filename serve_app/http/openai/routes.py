"""The routes of the OpenAI-compatible endpoints."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from fastapi import APIRouter
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve_app.errors import CaptionServeError
from serve_app.http import problems
from serve_app.http.description import PIXEL, REFERENCE, event_stream
from serve_app.http.disconnect import ClientGone, while_connected
from serve_app.http.middleware.request_id import request_id
from serve_app.http.openai import responses
from serve_app.http.openai.errors import refuse
from serve_app.http.openai.names import ALIAS, Served, served, served_as
from serve_app.http.openai.request import read_chat, read_json, task_of, using
from serve_app.http.openai.run import run
from serve_app.http.openai.schemas import Completion, Model, ModelList
from serve_app.http.openai.stream import begun, chunks
from serve_app.http.streams import EVENT_STREAM, PING_S
from serve_app.service.captions import CaptionService
from serve_app.service.tasks import TaskService

router = APIRouter()

_IMAGE = {"url": PIXEL, "detail": "low"}
_EXAMPLE = {
    "model": ALIAS,
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": _IMAGE}]}],
}
_RESPONSES_EXAMPLE = {
    "model": ALIAS,
    "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PIXEL, "detail": "low"}]}],
}
# What is 422 elsewhere is 400 here.
_PROBLEMS = problems.responses({*problems.STATUSES} - {422})


def _body(model: str, example: Mapping[str, object]) -> dict[str, object]:
    schema = {"$ref": f"{REFERENCE}{model}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


@router.post(
    "/v1/chat/completions",
    response_model=Completion,
    responses={
        200: {"content": {EVENT_STREAM: {"schema": event_stream("chunks, and [DONE] as the last")}}},
        **_PROBLEMS,
    },
    openapi_extra=_body("ChatRequest", _EXAMPLE),
    summary="Caption the images of a chat, or answer its question, in OpenAI's shape",
)
async def completions(request: Request) -> Response:
    """`usage` counts words, and 85 for each image. Sampling parameters are taken and ignored."""
    service: CaptionService = request.app.state.service
    tasks: TaskService = request.app.state.tasks
    name = request_id(request.scope)
    try:
        wanted = await read_chat(request, service.limits, request.app.state.fetcher)
        served_model = await served_as(service, wanted.chat.model)
        wanted, model = using(wanted, served_model.use), served_model.name
        if wanted.chat.stream:
            running = await begun(run(service, tasks, wanted, name))
            data = chunks(wanted, running, model, name, service.limits)
            return EventSourceResponse((ServerSentEvent(each, sep="\n") async for each in data), ping=PING_S)
        choices, usage, fingerprint = await while_connected(request, run(service, tasks, wanted, name))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    except CaptionServeError as error:
        return await refuse(request, error)
    answer = Completion(
        id=f"chatcmpl-{name}",
        created=int(time.time()),
        model=model,
        choices=choices,
        usage=usage,
        system_fingerprint=fingerprint,
    )
    return JSONResponse(answer.model_dump())


@router.post(
    "/v1/responses",
    response_class=Response,
    responses={
        200: {
            "description": "A response in OpenAI's shape",
            "content": {
                "application/json": {"schema": {"type": "object"}},
                EVENT_STREAM: {"schema": event_stream("response.created … response.completed or response.failed")},
            },
        },
        **_PROBLEMS,
    },
    openapi_extra=_body("ResponsesRequest", _RESPONSES_EXAMPLE),
    summary="The same in the shape of OpenAI's Responses API, one turn a request",
)
async def create_response(request: Request) -> Response:
    """Nothing is stored: send the whole turn."""
    service: CaptionService = request.app.state.service
    tasks: TaskService = request.app.state.tasks
    limits, name = service.limits, request_id(request.scope)
    try:
        asked = await asyncio.to_thread(responses.parse, await read_json(request, limits))
        wanted = await task_of(responses.as_chat(asked), limits, request.app.state.fetcher)
        served_model = await served_as(service, asked.model)
        wanted, model = using(wanted, served_model.use), served_model.name
        if asked.stream:
            running = await begun(run(service, tasks, wanted, name))
            events = responses.events(running, model, name, limits)
            sent = (ServerSentEvent(data, event=kind, sep="\n") async for kind, data in events)
            return EventSourceResponse(sent, ping=PING_S)
        answer = await while_connected(request, run(service, tasks, wanted, name))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    except CaptionServeError as error:
        return await refuse(request, error)
    return JSONResponse(responses.body(answer, model, name))


@router.get(
    "/v1/models",
    response_model=ModelList,
    responses={401: _PROBLEMS[401], 503: _PROBLEMS[503]},
    summary="The served models: all captioners together, and each of several",
)
async def models(request: Request) -> Response:
    try:
        service: CaptionService = request.app.state.service
        found = [_model(each, service) for each in await served(service)]
    except CaptionServeError as error:
        return await refuse(request, error)
    return JSONResponse(ModelList(data=found).model_dump())


def _model(served_model: Served, service: CaptionService) -> Model:
    return Model(id=served_model.name, captioners=list(served_model.use or service.captioners))


@router.get(
    "/v1/models/{model:path}",
    response_model=Model,
    responses={status: _PROBLEMS[status] for status in (401, 404, 503)},
    summary="One model",
)
async def model(request: Request, model: str) -> Response:
    try:
        service: CaptionService = request.app.state.service
        found = await served_as(service, model)
    except CaptionServeError as error:
        return await refuse(request, error)
    return JSONResponse(_model(found, service).model_dump())
