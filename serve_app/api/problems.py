"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

import logging
import math

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app import errors
from serve_app.api.request_id import request_id
from serve_app.contract import Problem
from serve_app.types import Limits

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[errors.CaptionServeError], int] = {
    errors.InvalidRequest: 400,
    errors.InvalidImage: 400,
    errors.ImageTooLarge: 413,
    errors.UnsupportedImage: 415,
    errors.InvalidOption: 422,
    errors.PromptTooLong: 422,
    errors.UrlNotAllowed: 422,
    errors.FetchFailed: 400,
    errors.NotDeployed: 404,
    errors.Unauthorized: 401,
    errors.Overloaded: 503,
    errors.QuotaExceeded: 429,
    errors.GeneratorUnavailable: 503,
    errors.WrongImageSize: 503,
    errors.DeadlineExceeded: 504,
    errors.GenerationFailed: 500,
}
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    413: "Too large",
    415: "Unsupported media type",
    422: "Option not accepted",
    429: "Too many requests",
    500: "Generation failed",
    503: "Service unavailable",
    504: "Out of time",
}
BUG = "The service failed; its log has the details under this request_id."
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left; nobody reads it but the access log."""
RETRY_AFTER_S = 5.0
"""For a 503 without a better estimate: about what a replica takes to come back."""


def problem(request: Request, status: int, slug: str, detail: str, retry_after_s: float | None = None) -> Response:
    """A problem document; `slug` becomes its `type`."""
    headers = {"Retry-After": str(math.ceil(retry_after_s or RETRY_AFTER_S))} if status in (429, 503) else {}
    body = _body(status, slug, detail, request_id(request.scope)).model_dump()
    return JSONResponse(body, status, headers, media_type=MEDIA_TYPE)


def _body(status: int, slug: str, detail: str, request_id: str) -> Problem:
    return Problem(
        type=f"urn:caption-serve:{slug}",
        title=TITLES.get(status, "Error"),
        status=status,
        detail=detail,
        request_id=request_id,
    )


def body_of(error: errors.CaptionServeError, request_id: str, limits: Limits) -> Problem:
    """The problem document of an error that is told inside an answer."""
    status = limits.overload_status if isinstance(error, errors.Overloaded) else status_of(error)
    return _body(status, slug_of(error), error.message, request_id)


def bug_body(request_id: str) -> Problem:
    return _body(500, "internal", BUG, request_id)


def status_of(error: errors.CaptionServeError) -> int:
    return next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), 500)


def slug_of(error: errors.CaptionServeError) -> str:
    """`ImageTooLarge` → `image-too-large`."""
    name = type(error).__name__
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


async def on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.CaptionServeError)
    if isinstance(error, errors.Overloaded):
        return overloaded(request, error, request.app.state.service.limits)
    retry_after_s = error.retry_after_s if isinstance(error, errors.TryLater) else None
    return problem(request, status_of(error), slug_of(error), error.message, retry_after_s)


def overloaded(request: Request, error: errors.Overloaded, limits: Limits) -> Response:
    return problem(request, limits.overload_status, slug_of(error), error.message, error.retry_after_s)


async def on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem(request, error.status_code, f"http-{error.status_code}", f"{error.detail}.")
    response.headers.update(error.headers or {})
    return response


async def on_bug(request: Request, error: Exception) -> Response:
    logger.error("request %s failed", request_id(request.scope), exc_info=error)
    return problem(request, 500, "internal", BUG)
