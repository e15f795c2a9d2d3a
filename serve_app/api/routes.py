"""The routes of the HTTP contract."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serve_app.api import problems
from serve_app.api.body import read_caption_request
from serve_app.api.disconnect import ClientGone, while_connected
from serve_app.api.request_id import request_id
from serve_app.api.schemas import CaptionBody, Options, Problem
from serve_app.api.service import CaptionService

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody reads it but the access log."""

router = APIRouter()


def _properties(image: dict[str, Any]) -> dict[str, Any]:
    schema = Options.model_json_schema()
    schema["properties"] = {"image": image, **schema["properties"]}
    schema["required"] = ["image"]
    return schema


_BINARY = {"type": "string", "format": "binary"}
_REQUEST_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": _properties(_BINARY)},
        "image/*": {"schema": _BINARY},
        "application/json": {
            "schema": _properties({"type": "string", "description": "data URI or base64"}),
        },
    },
}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": problems.TITLES[status],
        "content": {problems.MEDIA_TYPE: {"schema": Problem.model_json_schema()}},
    }
    for status in (400, 413, 415, 422, 429, 503, 504)
}


@router.post(
    "/v1/captions",
    response_model=CaptionBody,
    responses=_PROBLEMS,
    openapi_extra={"requestBody": _REQUEST_BODY},
    summary="Caption an image",
)
async def captions(request: Request) -> Response:
    """Send the image as a form file, as the raw body (options in the query), or inside JSON."""
    service: CaptionService = request.app.state.service
    try:
        image, options = await read_caption_request(request, service.limits)
        body = await while_connected(request, service.caption(image, options, request_id(request.scope)))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    return JSONResponse(body.model_dump())


@router.get("/healthz", response_class=PlainTextResponse, summary="The process lives")
async def healthz() -> str:
    return "ok"


@router.get(
    "/readyz",
    response_class=PlainTextResponse,
    responses={503: _PROBLEMS[503]},
    summary="A generate has worked a moment ago",
)
async def readyz(request: Request) -> Response:
    service: CaptionService = request.app.state.service
    reason = await service.readiness.reason_not_ready()
    if reason is not None:
        return problems.problem(request, 503, "not-ready", reason)
    return PlainTextResponse("ready")
