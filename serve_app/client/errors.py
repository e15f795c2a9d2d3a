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

    retryable = True


class UnexpectedAnswer(errors.ServiceError):
    """Something between client and service answered: no problem document came with the status."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.retryable = status in (429, 500, 502, 503, 504)

    def __reduce__(self) -> tuple[type[UnexpectedAnswer], tuple[str, int]]:
        return type(self), (self.message, self.status)


_CLASSES = {kind.slug: kind for kind in errors.subclasses()}
_BY_STATUS = {
    kind.status: kind
    for kind in (
        errors.InvalidRequest,
        errors.Unauthorized,
        errors.ImageTooLarge,
        errors.UnsupportedImage,
        errors.InvalidOption,
        errors.QuotaExceeded,
        errors.GeneratorUnavailable,
        errors.DeadlineExceeded,
    )
}
"""What a newer service's errors are taken for."""


def from_problem(problem: Problem, retry_after_s: float | None = None) -> errors.CaptionServeError:
    """The error that the problem document describes."""
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
