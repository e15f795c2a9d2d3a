"""What can go wrong, one class for each cause that a caller can act on, with its HTTP status:

    CaptionServeError           500
      RequestError              400   sending the request again changes nothing
        InvalidRequest          400
        InvalidImage            400
        Unauthorized            401
        NotDeployed             404
        ModelUnknown            404
        JobUnknown              404
        UploadTooSlow           408
        ImageTooLarge           413
        UnsupportedImage        415
        InvalidOption           422
        PromptTooLong           422
        UrlNotAllowed           422
        FetchFailed             424
      ServiceError              500   a later try may succeed
        GenerationFailed        500
        PolishFailed            500
        GeneratorUnavailable    503
        WrongImageSize          503
        JobsUnavailable         503
        ReplicasCrashed         422
        CaptionRefused          422
        FetchUnavailable        502
        DeadlineExceeded        504
        FetchTimedOut           504
        TryLater                503   with `retry_after_s`
          QuotaExceeded         429
          Overloaded            503   or what the setting `overload_status` says
      ModelError                500   a model cannot be loaded
        ModelNotFound           500
        ModelIncomplete         500
        ModelUnsupported        500
        ModelUnreachable        500
        DeviceUnavailable       500

Every message is one sentence for the user. Errors cross process borders, so each pickles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar


class CaptionServeError(Exception):
    """Root of all errors that this package raises on purpose."""

    status: int = 500
    retryable: bool = False
    """Whether the same request may succeed if it is sent again."""
    slug: ClassVar[str] = "caption-serve-error"
    """Its name in problem documents: `image-too-large` for `ImageTooLarge`."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.slug = re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(CaptionServeError):
    """The request cannot be served as it stands; sending it again changes nothing."""

    status = 400


class InvalidRequest(RequestError):
    """The body is malformed: no image, broken JSON, broken base64."""


class InvalidImage(RequestError):
    """The bytes claim to be an image and cannot be decoded."""


class UploadTooSlow(RequestError):
    """The body of the request did not come in time."""

    status = 408
    retryable = True


class ImageTooLarge(RequestError):
    """More bytes or pixels than the service accepts."""

    status = 413


class UnsupportedImage(RequestError):
    """The bytes are of no image format that the service reads."""

    status = 415


class InvalidOption(RequestError):
    """An option is unknown, out of range, or contradicts another one."""

    status = 422


class UrlNotAllowed(RequestError):
    """The URL names a host, scheme or address that the service does not fetch from."""

    status = 422


class FetchFailed(RequestError):
    """The URL may be fetched, and its server has no image for us: it says so, or there is no such host."""

    status = 424


class NotDeployed(RequestError):
    """The service runs without the model that this request needs."""

    status = 404


class Unauthorized(RequestError):
    """No API key, or one that the service does not know."""

    status = 401


class ModelUnknown(RequestError):
    """The request names a model that is not served."""

    status = 404


class JobUnknown(RequestError):
    """There is no caption in progress with this id, or it is not this caller's."""

    status = 404


class PromptTooLong(RequestError):
    """The prompt takes all of the model's positions, and none is left for an answer."""

    status = 422


class ServiceError(CaptionServeError):
    """The request was fine and the service could not answer it; a later try may succeed."""


OUT_OF_TIME = "The request's time limit was reached."


class DeadlineExceeded(ServiceError):
    """Time ran out before there was any caption."""

    status = 504

    def __init__(self, message: str = OUT_OF_TIME) -> None:
        super().__init__(message)


class FetchUnavailable(ServiceError):
    """The server of a URL cannot be reached, or fails."""

    status = 502
    retryable = True


class FetchTimedOut(ServiceError):
    """The server of a URL did not answer in time."""

    status = 504
    retryable = True


class TryLater(ServiceError):
    """The caller should retry after `retry_after_s` seconds, if that is known."""

    status = 503
    retryable = True

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[TryLater], tuple[str, float | None]]:
        return type(self), (self.message, self.retry_after_s)


class Overloaded(TryLater):
    """The queue is full; `retry_after_s` is when there will be capacity."""


class QuotaExceeded(TryLater):
    """The API key has used up its requests; others may still be served."""

    status = 429


class GeneratorUnavailable(ServiceError):
    """No replica answered: it died, is starting, or cannot be reached."""

    status = 503
    retryable = True


class GenerationFailed(ServiceError):
    """The model raised an error while it generated."""


class WrongImageSize(ServiceError):
    """The pixels are of another model's size: the service is changing models."""

    status = 503
    retryable = True


class ReplicasCrashed(ServiceError):
    """Replicas crashed or ran out of memory while they worked on the image. A caption does without a step that is lost
    so; without any text it is the image that cannot be processed."""

    status = 422


class CaptionRefused(ServiceError):
    """A model that follows requests refused this one, or said nothing of the image; another model may describe it."""

    status = 422


class JobsUnavailable(ServiceError):
    """The storage of captions that outlive their request fails."""

    status = 503
    retryable = True


class PolishFailed(ServiceError):
    """The chat model that rewrites captions gave no usable text; the caption stands as it was."""


class ModelError(CaptionServeError):
    """The model cannot be loaded; the deployment fails with this sentence."""


class ModelNotFound(ModelError):
    """No such directory, or no such repository on the hub."""


class ModelIncomplete(ModelError):
    """A file of the checkpoint is missing, cut short or unreadable."""


class ModelUnsupported(ModelError):
    """The checkpoint is of another architecture or in a format that is not loaded."""


class ModelUnreachable(ModelError):
    """The hub cannot be reached and the checkpoint is not in the cache."""


class DeviceUnavailable(ModelError):
    """The requested device does not exist on this machine."""


def subclasses(kind: type[CaptionServeError] = CaptionServeError) -> Iterator[type[CaptionServeError]]:
    """All classes below `kind` that exist by now, each before its own subclasses."""
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)
