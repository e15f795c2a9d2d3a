"""The routes of BLIP's other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve_app.contract import EmbeddingsBody
from serve_app.errors import CaptionServeError, ImageTooLarge, InvalidOption
from serve_app.http import openai, problems
from serve_app.http.body import read_caption_request, read_json_object
from serve_app.http.description import PIXEL
from serve_app.http.disconnect import ClientGone, while_connected
from serve_app.http.middleware.request_id import request_id
from serve_app.http.routes import PROBLEMS, fields_of, properties_of
from serve_app.service.sources import FETCHES_AT_ONCE, image_bytes
from serve_app.service.tasks import TaskService
from serve_app.tasks import EMBEDDINGS, TASKS, Task

router = APIRouter()


def _body(options: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    binary = {"type": "string", "format": "binary"}
    image = {"type": "string", "description": "data URI, base64 or URL"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": properties_of(options, image), "example": {"image": PIXEL, **example}},
                "multipart/form-data": {"schema": fields_of(options, binary)},
            },
        }
    }


def _embedding_body() -> dict[str, Any]:
    schema = EMBEDDINGS.options.model_json_schema()
    images = {"type": "array", "items": {"type": "string"}, "description": "data URIs, base64 or URLs"}
    schema["properties"] = {**schema["properties"], "images": images}
    example = {**EMBEDDINGS.example, "images": [PIXEL]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


def _endpoint(task: Task) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def endpoint(request: Request) -> Response:
        tasks: TaskService = request.app.state.tasks
        limits, fetcher = request.app.state.service.limits, request.app.state.fetcher
        try:
            tasks.need(task)
            image, values = await read_caption_request(request, limits, fetcher)
            body = await while_connected(request, getattr(tasks, task.method)(image, values, request_id(request.scope)))
        except (ClientGone, ClientDisconnect):
            return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
        return JSONResponse(body.model_dump())

    endpoint.__name__ = task.name
    return endpoint


for _task in TASKS:
    if _task is not EMBEDDINGS:  # which takes several images
        router.add_api_route(
            _task.path,
            _endpoint(_task),
            methods=["POST"],
            response_model=_task.body,
            responses=PROBLEMS,
            openapi_extra=_body(_task.options, dict(_task.example)),
            summary=_task.summary,
            description=_task.description,
        )


@router.post(
    EMBEDDINGS.path,
    response_model=EMBEDDINGS.body,
    responses=PROBLEMS,
    openapi_extra=_embedding_body(),
    summary=EMBEDDINGS.summary,
    description=EMBEDDINGS.description,
)
async def embeddings(request: Request) -> Response:
    tasks: TaskService = request.app.state.tasks
    limits = request.app.state.service.limits
    try:
        tasks.need(EMBEDDINGS)
        values = await read_json_object(request, limits.max_batch_bytes)
        given = values.pop("images", [])
        if not isinstance(given, list) or not all(isinstance(image, str) for image in given):
            raise InvalidOption("images: a list of data URIs, base64 texts or URLs is needed.")
        if len(given) > limits.max_batch_images:
            raise InvalidOption(f"images: {len(given)} were given; at most {limits.max_batch_images} are accepted.")
        body = await while_connected(request, _embedded(request, tasks, given, values))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    except CaptionServeError as error:
        return await openai.refuse(request, error)
    return JSONResponse(body.model_dump())


async def _embedded(request: Request, tasks: TaskService, given: list[str], values: dict[str, Any]) -> EmbeddingsBody:
    limits = request.app.state.service.limits
    room, total = asyncio.Semaphore(FETCHES_AT_ONCE), 0

    async def fetch(image: str) -> bytes:
        nonlocal total
        async with room:
            data = await image_bytes(image, limits, request.app.state.fetcher)
        total += len(data)
        if total > limits.max_batch_bytes:
            raise ImageTooLarge(f"The images together have more than {limits.max_batch_bytes} bytes.")
        return data

    return await tasks.embed(given, values, fetch)
