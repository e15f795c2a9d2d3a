"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match

from serve_app import errors
from serve_app.contract import Problem
from serve_app.http.description import REFERENCE
from serve_app.http.middleware.request_id import request_id
from serve_app.limits import Limits

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

STATUSES = sorted({kind.status for kind in errors.subclasses()})
_SLUGS = {kind.slug for kind in errors.subclasses()}
BUG = "The service failed; its log has the details under this request_id."
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody reads it but the access log."""
RETRY_AFTER_S = 5.0
"""For a 503 without a better estimate: about what a replica takes to come back."""


def responses(statuses: Collection[int] = STATUSES) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of the statuses: a problem document, with an example."""
    schema = {"$ref": f"{REFERENCE}{Problem.__name__}"}
    kinds = {kind.status: kind for kind in reversed([*errors.subclasses()]) if not kind.__subclasses__()}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema, "example": _example(kinds[status]).model_dump()}},
        }
        for status in sorted(statuses)
    }


def _example(kind: type[errors.CaptionServeError]) -> Problem:
    sentence = (kind.__doc__ or "").splitlines()[0]
    return _body(kind.status, kind.slug, sentence, "5f0c1f9c")


def problem(request: Request, status: int, slug: str, detail: str, retry_after_s: float | None = None) -> Response:
    """A problem document; `slug` becomes its `type` and, in words, its `title`."""
    headers = {"Retry-After": str(math.ceil(retry_after_s or RETRY_AFTER_S))} if status in (429, 503) else {}
    body = _body(status, slug, detail, request_id(request.scope)).model_dump()
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def _body(status: int, slug: str, detail: str, request_id: str) -> Problem:
    return Problem(
        type=f"urn:caption-serve:{slug}",
        title=slug.replace("-", " ").capitalize() if slug in _SLUGS else HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        request_id=request_id,
    )


def body_of(error: errors.CaptionServeError, request_id: str, limits: Limits) -> Problem:
    """The problem document of an error inside a response, such as a line of a batch."""
    status = limits.overload_status if isinstance(error, errors.Overloaded) else error.status
    return _body(status, error.slug, error.message, request_id)


def bug_body(request_id: str) -> Problem:
    return _body(500, "internal", BUG, request_id)


async def on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.CaptionServeError)
    if isinstance(error, errors.Overloaded):
        return overloaded(request, error, request.app.state.service.limits)
    retry_after_s = error.retry_after_s if isinstance(error, errors.TryLater) else None
    return problem(request, error.status, error.slug, error.message, retry_after_s)


def overloaded(request: Request, error: errors.Overloaded, limits: Limits) -> Response:
    return problem(request, limits.overload_status, error.slug, error.message, error.retry_after_s)


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(request, error.status_code, f"http-{error.status_code}", f"{error.detail}.")
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # starlette names those of the path's first route only
        response.headers["allow"] = ", ".join(sorted(_methods(request)))
    return response


def _methods(request: Request) -> set[str]:
    """What the requested path may be asked with."""
    routes = (route for route in request.app.state.routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in routes for method in getattr(route, "methods", None) or ()}


async def on_bug(request: Request, error: Exception) -> Response:
    logger.error("request %s failed", request_id(request.scope), exc_info=error)
    return problem(request, 500, "internal", BUG)
