"""The client for programs without an event loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, Unpack

import httpx
from pydantic import BaseModel

from serve_app import tasks
from serve_app.client import wire
from serve_app.client.errors import ServiceUnreachable
from serve_app.client.options import CaptionOptions, FilterOptions
from serve_app.contract import (
    AnswerBody,
    BatchLine,
    CaptionBody,
    EmbeddingsBody,
    FilterBody,
    MatchBody,
    ResultEvent,
    StepEvent,
)
from serve_app.deadline import Deadline
from serve_app.errors import CaptionServeError
from serve_app.retry import Retries

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)


class CaptionServe:
    """A running service.

    An image is a path, bytes, a file, a PIL image, a uint8 array, or a URL for the service to fetch.

    What may pass (full, restarting, connection lost) is tried again, at most `max_retries` times and not after
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
        self._root = base_url.rstrip("/")
        self._headers = wire.headers(api_key or os.environ.get(wire.KEY_VARIABLE))
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._http = http_client or httpx.Client(timeout=timeout_s)
        self._owned = http_client is None
        self._sleep = sleep

    def caption(self, image: Any, **options: Unpack[CaptionOptions]) -> CaptionBody:
        """The caption of one image."""
        request = wire.caption_request(image, options)
        return self._asked(wire.CAPTIONS, request, CaptionBody)

    def answer(self, image: Any, question: str, *, timeout_s: float | None = None) -> AnswerBody:
        """The answer to a question about an image. Raises `NotDeployed` where the service has no answerer."""
        request = wire.caption_request(image, {"question": question, "timeout_s": timeout_s})
        return self._asked(tasks.ANSWERS.path, request, AnswerBody)

    def match(self, image: Any, texts: Sequence[str], *, timeout_s: float | None = None) -> MatchBody:
        """How well each text describes an image. Raises `NotDeployed` where the service has no matcher."""
        request = wire.caption_request(image, {"texts": list(texts), "timeout_s": timeout_s})
        return self._asked(tasks.MATCHES.path, request, MatchBody)

    def filter(self, image: Any, texts: Sequence[str], **options: Unpack[FilterOptions]) -> FilterBody:
        """Which texts of an image to keep, and a new caption where none passes."""
        request = wire.caption_request(image, {"texts": list(texts), **options})
        return self._asked(tasks.FILTERS.path, request, FilterBody)

    def embed(self, images: Sequence[Any] = (), texts: Sequence[str] = ()) -> list[list[float]]:
        """Vectors of length 1: those of the images, then those of the texts."""
        request = wire.embedding_request(images, texts)
        body = self._asked(tasks.EMBEDDINGS.path, request, EmbeddingsBody)
        vectors = [entry.embedding for entry in body.data if not isinstance(entry.embedding, str)]
        return vectors[len(texts) :] + vectors[: len(texts)]

    def stream(self, image: Any, **options: Unpack[CaptionOptions]) -> Iterator[StepEvent | ResultEvent]:
        """What happens while the image is captioned; the last event is the result. Leaving the loop ends the work."""
        headers = {**self._headers, **wire.EVENT_STREAM}
        with self._opened(wire.CAPTIONS, headers, wire.caption_request(image, options)) as response:
            reader = wire.EventReader()
            with _reached():
                for line in response.iter_lines():
                    for event in reader.feed(line):
                        yield event
                        if isinstance(event, ResultEvent):
                            return
        raise ServiceUnreachable("The connection ended before the result was there.")

    def caption_batch(self, images: Iterable[Any], **options: Unpack[CaptionOptions]) -> Iterator[BatchLine]:
        """A line for each image as it is done; a bad image is a line with its error."""
        with self._opened(wire.BATCH, self._headers, wire.batch_request(images, options)) as response, _reached():
            for line in response.iter_lines():
                yield wire.batch_line(line)

    def ready(self) -> bool:
        """True when the service has generated a moment ago."""
        try:
            return self._http.get(f"{self._root}/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        if self._owned:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _asked(self, path: str, request: dict[str, Any], body: type[Body]) -> Body:
        def ask() -> Body:
            with _reached():
                response = self._http.post(self._root + path, headers=self._headers, **request)
            return wire.body_of(response, body)

        return self._again(ask)

    @contextmanager
    def _opened(self, path: str, headers: dict[str, str], request: dict[str, Any]) -> Iterator[httpx.Response]:
        """The answer whose body is still to come; tried again as long as there is none."""

        def ask() -> httpx.Response:
            with _reached():
                made = self._http.build_request("POST", self._root + path, headers=headers, **request)
                response = self._http.send(made, stream=True)
                if response.status_code != 200:
                    try:
                        response.read()
                    finally:
                        response.close()
                    raise wire.failure(response)
            return response

        response = self._again(ask)
        try:
            yield response
        finally:
            response.close()

    def _again(self, ask: Callable[[], T]) -> T:
        retries = Retries(self._max_retries, Deadline.after(self._timeout_s))
        while True:
            try:
                return ask()
            except CaptionServeError as error:
                self._sleep(retries.pause_s(error))


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise ServiceUnreachable(f"The service did not answer: {error or type(error).__name__}.") from error
