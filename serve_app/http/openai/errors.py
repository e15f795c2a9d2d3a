"""Errors of OpenAI's endpoints: problem documents that OpenAI's clients understand too."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app import errors
from serve_app.http import problems
from serve_app.http.paths import route_path

PATHS = ("/v1/chat/", "/v1/models", "/v1/responses", "/v1/embeddings")
_CODES = {401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded", 503: "overloaded"}


def is_chat(request: Request) -> bool:
    return route_path(request.scope).startswith(PATHS)


async def refuse(request: Request, error: errors.CaptionServeError) -> Response:
    """The answer to a request that failed; options that are not accepted are 400 here."""
    if error.status == 422:
        response = problems.problem(request, 400, error.slug, error.message)
    else:
        response = await problems.on_error(request, error)
    body = json.loads(bytes(response.body))
    headers = {name: value for name, value in response.headers.items() if name in ("retry-after", "www-authenticate")}
    body["error"] = error_member(error.message, response.status_code)
    return JSONResponse(body, response.status_code, headers, media_type=problems.MEDIA_TYPE)


def error_member(message: str, status: int) -> dict[str, Any]:
    """OpenAI's `error` object."""
    kinds = {429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"message": message, "type": kind, "param": None, "code": _CODES.get(status)}
