"""The client for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from serve_app.client import wire
from serve_app.client.base import BaseClient
from serve_app.client.errors import ServiceUnreachable
from serve_app.client.options import CaptionArguments, FilterArguments
from serve_app.contract import (
    AnswerBody,
    BatchLine,
    CaptionBody,
    FilterBody,
    MatchBody,
    ResultEvent,
    StepEvent,
)
from serve_app.errors import CaptionServeError

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)


class CaptionServe(BaseClient):
    """A running service.

    An image is a path, bytes, a file, a PIL image, a uint8 array, or a URL for the service to fetch.

    Errors that may pass (full, restarting, connection lost) are retried, at most `max_retries` times and not after
    `timeout_s`; `Retry-After` is honoured. Methods raise the classes of `serve_app.errors`, `ServiceUnreachable` and
    `UnexpectedAnswer`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 660.0,
        max_retries: int = 4,
        http_client: httpx.Client | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`api_key` is the environment's CAPTION_SERVE_API_KEY when it is not given."""
        super().__init__(base_url, api_key, timeout_s, max_retries)
        self._http = http_client or httpx.Client(timeout=wire.patience(timeout_s))
        self._owned = http_client is None
        self._sleep = sleep

    def caption(self, image: Any, **options: Unpack[CaptionArguments]) -> CaptionBody:
        """The caption of one image."""
        return self._answered(wire.caption(image, options))

    def answer(self, image: Any, question: str | Sequence[str], *, timeout_s: float | None = None) -> AnswerBody:
        """The answer to a question about an image; to several in `answers`.

        Raises `NotDeployed` if the service has no answerer.
        """
        return self._answered(wire.answer(image, question, timeout_s))

    def match(self, image: Any, texts: Sequence[str], *, timeout_s: float | None = None) -> MatchBody:
        """How well each text describes an image. Raises `NotDeployed` if the service has no matcher."""
        return self._answered(wire.match(image, texts, timeout_s))

    def filter(self, image: Any, texts: Sequence[str], **options: Unpack[FilterArguments]) -> FilterBody:
        """Which texts of an image to keep, and a new caption if none passes."""
        return self._answered(wire.filtering(image, texts, options))

    def embed(self, images: Sequence[Any] = (), texts: Sequence[str] = ()) -> list[list[float]]:
        """Vectors of length 1: those of the images, then those of the texts."""
        return wire.vectors_of(self._answered(wire.embed(images, texts)), len(texts))

    def stream(self, image: Any, **options: Unpack[CaptionArguments]) -> Iterator[StepEvent | ResultEvent]:
        """What happens while the image is captioned; the last event is the result. Leaving the loop ends the work."""
        with self._opened(wire.stream(image, options)) as response:
            reader = wire.EventReader()
            with wire.reached():
                for line in response.iter_lines():
                    for event in reader.feed(line):
                        yield event
                        if isinstance(event, ResultEvent):
                            return
        raise ServiceUnreachable(wire.ENDED)

    def caption_batch(self, images: Iterable[Any], **options: Unpack[CaptionArguments]) -> Iterator[BatchLine]:
        """A line for each image as it is done; a bad image is a line with its error."""
        for first, call in wire.batches(images, options):
            with self._opened(call) as response, wire.reached():
                for line in response.iter_lines():
                    yield wire.batch_line(line, first)

    def ready(self) -> bool:
        """True when the service has generated a moment ago."""
        try:
            return (self._http.get(f"{self._root}/readyz", timeout=wire.READY_S)).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answered(self, call: wire.Call[Body]) -> Body:
        request = call.request()

        def ask() -> Body:
            with wire.reached():
                made = self._http.build_request(**self._addressed(call.path, call.headers, request))
                response = self._http.send(made)
            return wire.body_of(response, call.body)

        return self._retried(ask)

    @contextmanager
    def _opened(self, call: wire.Call[Any]) -> Iterator[httpx.Response]:
        """The answer whose body is still to come; tried again as long as there is none."""
        request = call.request()

        def ask() -> httpx.Response:
            with wire.reached():
                made = self._http.build_request(**self._addressed(call.path, call.headers, request))
                response = self._http.send(made, stream=True)
                if response.status_code != 200:
                    try:
                        response.read()
                    finally:
                        response.close()
                    raise wire.failure(response)
            return response

        response = self._retried(ask)
        try:
            yield response
        finally:
            response.close()

    def _retried(self, ask: Callable[[], T]) -> T:
        retries = self._retries()
        while True:
            try:
                return ask()
            except CaptionServeError as error:
                self._sleep(retries.pause_s(error))
