"""What can go wrong, one class for each cause that a caller can act on.

Every message is one sentence for the user. Errors cross process borders, so each pickles.
"""

from __future__ import annotations


class CaptionServeError(Exception):
    """Root of all errors that this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RequestError(CaptionServeError):
    """The request cannot be served as it stands; sending it again changes nothing."""


class InvalidRequest(RequestError):
    """The body is malformed: no image, broken JSON, broken base64."""


class InvalidImage(RequestError):
    """The bytes claim to be an image and cannot be decoded."""


class ImageTooLarge(RequestError):
    """More bytes or pixels than the service accepts."""


class UnsupportedImage(RequestError):
    """The bytes are of no image format that the service reads."""


class InvalidOption(RequestError):
    """An option is unknown, out of range, or contradicts another one."""


class UrlNotAllowed(RequestError):
    """The URL names a host, scheme or address that the service does not fetch from."""


class FetchFailed(RequestError):
    """The URL may be fetched, and its server gave no image: unreachable, too slow, an error, too many bytes."""


class NotDeployed(RequestError):
    """The service runs without the model that this request needs."""


class Unauthorized(RequestError):
    """No API key, or one that the service does not know."""


class PromptTooLong(RequestError):
    """The prompt leaves no room for an answer in the model's positions."""


class ServiceError(CaptionServeError):
    """The request was fine and the service could not answer it; a later try may succeed."""


class DeadlineExceeded(ServiceError):
    """Time ran out before there was any caption."""


class TryLater(ServiceError):
    """The caller is to come back in `retry_after_s` seconds, where that is known."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[TryLater], tuple[str, float | None]]:
        return type(self), (self.message, self.retry_after_s)


class Overloaded(TryLater):
    """The queue is full; `retry_after_s` is when there will be room."""


class QuotaExceeded(TryLater):
    """The API key has used up its requests; others may still be served."""


class GeneratorUnavailable(ServiceError):
    """No replica answered: it died, is starting, or cannot be reached."""


class GenerationFailed(ServiceError):
    """The model raised an error while it generated."""


class WrongImageSize(ServiceError):
    """The pixels are of another model's size: the service is changing models."""


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
