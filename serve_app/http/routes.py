"""The routes of the HTTP contract."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serve_app.contract import BatchLine, CaptionBody, JobBody
from serve_app.http import problems
from serve_app.http.batches import read_batch_request
from serve_app.http.body import read_caption_request
from serve_app.http.description import CAPTION, EVENT_EXAMPLE, EVENTS, PIXEL, REFERENCE, event_stream
from serve_app.http.disconnect import ClientGone, while_connected
from serve_app.http.job_routes import WEBHOOK, accepted
from serve_app.http.middleware.request_id import request_id
from serve_app.http.paths import BATCH
from serve_app.http.preferences import is_background, prefers_async
from serve_app.http.streams import EVENT_STREAM, NDJSON, batch_response, event_response, wants_events
from serve_app.options import Options
from serve_app.service.captions import CaptionService

router = APIRouter()


def properties_of(options: type[BaseModel], image: dict[str, Any]) -> dict[str, Any]:
    """Schema of a JSON body with the image and its options."""
    schema = options.model_json_schema()
    schema["properties"] = {"image": image, **schema["properties"]}
    schema["required"] = ["image", *schema.get("required", ())]
    return schema


def fields_of(options: type[BaseModel], image: dict[str, Any]) -> dict[str, Any]:
    """The same as fields of a form, in which nothing can be null."""
    schema = properties_of(options, image)
    for name, given in schema["properties"].items():
        if kinds := [kind for kind in given.get("anyOf", ()) if kind != {"type": "null"}]:
            rest = {key: value for key, value in given.items() if key not in ("anyOf", "default")}
            schema["properties"][name] = {**rest, **kinds[0]}
    return schema


def _shape(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": f"{REFERENCE}{model.__name__}"}


_BINARY = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": fields_of(Options, _BINARY)},
        "image/*": {"schema": _BINARY},
        "application/json": {
            "schema": properties_of(Options, {"type": "string", "description": "data URI, base64 or URL"}),
            "example": {"image": PIXEL, "detail": "low"},
        },
    },
}
_BATCH_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": fields_of(Options, {"type": "array", "items": _BINARY, "minItems": 1})}
    },
}


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


_HEADERS = [
    _header("Prefer", "respond-async: an id at once (202), if the service keeps captions beyond requests (RFC 7240)"),
    _header(WEBHOOK, "with `Prefer: respond-async`: the URL that is called when the caption is done", format="uri"),
    _header("Priority", "u=7: background work, which leaves half of the capacity to others (RFC 9218)"),
]
PROBLEMS = problems.responses()
_ANSWER = {
    "content": {
        "application/json": {"example": CAPTION},
        EVENT_STREAM: {
            "schema": event_stream("one of " + ", ".join(event.__name__ for event in EVENTS) + " as JSON in `data`"),
            "example": EVENT_EXAMPLE,
        },
    }
}


@router.post(
    "/v1/captions",
    response_model=CaptionBody,
    responses={
        200: _ANSWER,
        202: {
            "model": JobBody,
            "description": "Accepted, with `Prefer: respond-async` where captions may outlive a request",
        },
        **PROBLEMS,
    },
    openapi_extra={"requestBody": _REQUEST_BODY, "parameters": _HEADERS},
    summary="Caption an image",
)
async def captions(request: Request) -> Response:
    """Send the image as a form file, as the raw body (options in the query), or inside JSON.

    With `Accept: text/event-stream` the answer comes in events: start, variant, merge, extension, round, and result or
    error as the last. With `Prefer: respond-async` it comes later, at the `Location` that is given.
    """
    service: CaptionService = request.app.state.service
    try:
        image, options = await read_caption_request(request, service.limits, request.app.state.fetcher)
        if request.app.state.jobs is not None and prefers_async(request.headers):
            return await accepted(request, image, options)
        if wants_events(request):
            return await event_response(request, service.events(image, options, request_id(request.scope)))
        fresh = "no-cache" in request.headers.get("cache-control", "").lower()
        background = is_background(request.headers)
        work = service.caption(image, options, request_id(request.scope), background=background, fresh=fresh)
        body = await while_connected(request, work)
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    return JSONResponse(body.model_dump())


@router.post(
    BATCH,
    response_class=Response,
    responses={
        200: {
            "description": "One line of JSON for each image, in the order in which they finish",
            "content": {NDJSON: {"schema": _shape(BatchLine)}},
        },
        **PROBLEMS,
    },
    openapi_extra={"requestBody": _BATCH_BODY},
    summary="Caption several images",
)
async def batch(request: Request) -> Response:
    """Send several form files named `image`; the options hold for all. A bad image is an error line."""
    service: CaptionService = request.app.state.service
    try:
        parts, options = await read_batch_request(request, service.limits)
    except ClientDisconnect:
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    return batch_response(request, service, parts, options)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", response_class=PlainTextResponse, summary="The process lives")
async def healthz() -> str:
    return "ok"


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    response_class=PlainTextResponse,
    responses={503: PROBLEMS[503]},
    summary="A generate has worked a moment ago",
)
async def readyz(request: Request) -> Response:
    service: CaptionService = request.app.state.service
    reason = await service.readiness.reason_not_ready()
    if reason is not None:
        return problems.problem(request, 503, "not-ready", reason)
    return PlainTextResponse("ready")
