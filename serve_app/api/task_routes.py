"""The routes of BLIP's other tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serve_app.api import problems
from serve_app.api.body import read_caption_request, read_json_object
from serve_app.api.description import PIXEL
from serve_app.api.disconnect import ClientGone, while_connected
from serve_app.api.request_id import request_id
from serve_app.api.routes import PROBLEMS, fields_of, properties_of
from serve_app.api.sources import image_bytes
from serve_app.api.tasks import AnswerOptions, EmbeddingOptions, FilterOptions, MatchOptions, TaskService
from serve_app.contract import AnswerBody, EmbeddingsBody, FilterBody, MatchBody
from serve_app.errors import ImageTooLarge, InvalidOption

FETCHES_AT_ONCE = 8
"""Images of one request for vectors that are fetched at a time."""

router = APIRouter()

Task = Callable[[Any, Mapping[str, Any], str], Coroutine[Any, Any, BaseModel]]


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
    schema = EmbeddingOptions.model_json_schema()
    images = {"type": "array", "items": {"type": "string"}, "description": "data URIs, base64 or URLs"}
    schema["properties"] = {**schema["properties"], "images": images}
    example = {"input": ["a dog on the grass"], "images": [PIXEL]}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


@router.post(
    "/v1/answers",
    response_model=AnswerBody,
    responses=PROBLEMS,
    openapi_extra=_body(AnswerOptions, {"question": "what is in the picture?"}),
    summary="Answer a question about an image",
)
async def answers(request: Request) -> Response:
    """The image comes as a form file, as the raw body, or inside JSON, as for captions."""
    return await _respond(request, lambda tasks: tasks.need_answerer(), lambda tasks: tasks.answer)


@router.post(
    "/v1/matches",
    response_model=MatchBody,
    responses=PROBLEMS,
    openapi_extra=_body(MatchOptions, {"texts": ["a dog", "a red square"]}),
    summary="Say how well texts describe an image",
)
async def matches(request: Request) -> Response:
    """`probability` judges each text with the image before it; `similarity` is fit for search over many images."""
    return await _respond(request, lambda tasks: tasks.need_matcher(), lambda tasks: tasks.match)


@router.post(
    "/v1/filters",
    response_model=FilterBody,
    responses=PROBLEMS,
    openapi_extra=_body(FilterOptions, {"texts": ["a dog", "IMG_2041.JPG"], "improve": False}),
    summary="Say which of an image's texts to keep, and write a better one where none is good",
)
async def filters(request: Request) -> Response:
    """For alt texts and captions that are there already."""
    return await _respond(request, lambda tasks: tasks.need_matcher(), lambda tasks: tasks.filter)


@router.post(
    "/v1/embeddings",
    response_model=EmbeddingsBody,
    responses=PROBLEMS,
    openapi_extra=_embedding_body(),
    summary="Vectors of images and texts for search",
)
async def embeddings(request: Request) -> Response:
    """OpenAI's shape, with `images` besides `input`. Vectors have length 1; `dimension` says how many numbers."""
    tasks: TaskService = request.app.state.tasks
    limits = request.app.state.service.limits
    try:
        tasks.need_matcher()
        values = await read_json_object(request, limits.max_batch_bytes)
        given = values.pop("images", [])
        if not isinstance(given, list) or not all(isinstance(image, str) for image in given):
            raise InvalidOption("images: a list of data URIs, base64 texts or URLs is needed.")
        if len(given) > limits.max_batch_images:
            raise InvalidOption(f"images: {len(given)} were given; at most {limits.max_batch_images} are accepted.")
        body = await while_connected(request, _embedded(request, tasks, given, values))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
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


async def _respond(
    request: Request, check: Callable[[TaskService], object], task: Callable[[TaskService], Task]
) -> Response:
    tasks: TaskService = request.app.state.tasks
    try:
        check(tasks)
        image, values = await read_caption_request(request, request.app.state.service.limits, request.app.state.fetcher)
        body = await while_connected(request, task(tasks)(image, values, request_id(request.scope)))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    return JSONResponse(body.model_dump())
