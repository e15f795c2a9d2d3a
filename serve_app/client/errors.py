"""The service's errors as they were raised there."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from serve_app import errors
from serve_app.contract import Problem


class ServiceUnreachable(errors.ServiceError):
    """No connection, or it broke before the answer was there."""


class UnexpectedAnswer(errors.ServiceError):
    """Something between client and service answered: no problem document came with the status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[UnexpectedAnswer], tuple[str, int]]:
        return type(self), (self.message, self.status)


def _known() -> dict[str, type[errors.CaptionServeError]]:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return {_slug(kind.__name__): kind for kind in classes if issubclass(kind, errors.CaptionServeError)}


def _slug(name: str) -> str:
    return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))


_CLASSES = _known()
_BY_STATUS: dict[int, type[errors.CaptionServeError]] = {
    401: errors.Unauthorized,
    413: errors.ImageTooLarge,
    415: errors.UnsupportedImage,
    422: errors.InvalidOption,
    429: errors.QuotaExceeded,
    503: errors.GeneratorUnavailable,
    504: errors.DeadlineExceeded,
}


def from_problem(problem: Problem, retry_after_s: float | None = None) -> errors.CaptionServeError:
    """The error that the problem document tells of."""
    kind = _CLASSES.get(problem.type.removeprefix("urn:caption-serve:")) or _BY_STATUS.get(problem.status)
    if kind is None:
        kind = errors.GenerationFailed if problem.status >= 500 else errors.InvalidRequest
    if issubclass(kind, errors.TryLater):
        return kind(problem.detail, retry_after_s)
    return kind(problem.detail)


def from_answer(status: int, headers: Mapping[str, str], body: Any) -> errors.CaptionServeError:
    """The error of an answer that is no success; `body` is its JSON, or None."""
    try:
        problem = Problem.model_validate(body)
    except ValidationError:
        return UnexpectedAnswer(f"The answer was no caption but status {status}.", status)
    return from_problem(problem, retry_after_s(headers))


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After`, which holds a number or a date (RFC 9110)."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
