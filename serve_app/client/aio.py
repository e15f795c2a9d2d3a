"""The client for programs with an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
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
from serve_app.retry import Retries, retried

T = TypeVar("T")
Body = TypeVar("Body", bound=BaseModel)


class AsyncCaptionServe:
    """`CaptionServe` for asyncio: the same methods.

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
        http_client: httpx.AsyncClient | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`api_key` is the environment's CAPTION_SERVE_API_KEY when it is not given."""
        self._root = base_url.rstrip("/")
        self._headers = wire.headers(api_key or os.environ.get(wire.KEY_VARIABLE))
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._http = http_client or httpx.AsyncClient(timeout=timeout_s)
        self._owned = http_client is None
        self._sleep = sleep

    async def caption(self, image: Any, **options: Unpack[CaptionOptions]) -> CaptionBody:
        """The caption of one image."""
        request = await asyncio.to_thread(wire.caption_request, image, options)
        return await self._asked(wire.CAPTIONS, request, CaptionBody)

    async def answer(self, image: Any, question: str, *, timeout_s: float | None = None) -> AnswerBody:
        """The answer to a question about an image. Raises `NotDeployed` where the service has no answerer."""
        request = await asyncio.to_thread(wire.caption_request, image, {"question": question, "timeout_s": timeout_s})
        return await self._asked(tasks.ANSWERS.path, request, AnswerBody)

    async def match(self, image: Any, texts: Sequence[str], *, timeout_s: float | None = None) -> MatchBody:
        """How well each text describes an image. Raises `NotDeployed` where the service has no matcher."""
        request = await asyncio.to_thread(wire.caption_request, image, {"texts": list(texts), "timeout_s": timeout_s})
        return await self._asked(tasks.MATCHES.path, request, MatchBody)

    async def filter(self, image: Any, texts: Sequence[str], **options: Unpack[FilterOptions]) -> FilterBody:
        """Which texts of an image to keep, and a new caption where none passes."""
        request = await asyncio.to_thread(wire.caption_request, image, {"texts": list(texts), **options})
        return await self._asked(tasks.FILTERS.path, request, FilterBody)

    async def embed(self, images: Sequence[Any] = (), texts: Sequence[str] = ()) -> list[list[float]]:
        """Vectors of length 1: those of the images, then those of the texts."""
        request = await asyncio.to_thread(wire.embedding_request, images, texts)
        body = await self._asked(tasks.EMBEDDINGS.path, request, EmbeddingsBody)
        vectors = [entry.embedding for entry in body.data if not isinstance(entry.embedding, str)]
        return vectors[len(texts) :] + vectors[: len(texts)]

    async def stream(self, image: Any, **options: Unpack[CaptionOptions]) -> AsyncIterator[StepEvent | ResultEvent]:
        """What happens while the image is captioned; the last event is the result. Leaving the loop ends the work."""
        headers = {**self._headers, **wire.EVENT_STREAM}
        request = await asyncio.to_thread(wire.caption_request, image, options)
        async with self._opened(wire.CAPTIONS, headers, request) as response:
            reader = wire.EventReader()
            with _reached():
                async for line in response.aiter_lines():
                    for event in reader.feed(line):
                        yield event
                        if isinstance(event, ResultEvent):
                            return
        raise ServiceUnreachable("The connection ended before the result was there.")

    async def caption_batch(self, images: Iterable[Any], **options: Unpack[CaptionOptions]) -> AsyncIterator[BatchLine]:
        """A line for each image as it is done; a bad image is a line with its error."""
        request = await asyncio.to_thread(wire.batch_request, images, options)
        async with self._opened(wire.BATCH, self._headers, request) as response:
            with _reached():
                async for line in response.aiter_lines():
                    yield wire.batch_line(line)

    async def ready(self) -> bool:
        """True when the service has generated a moment ago."""
        try:
            return (await self._http.get(f"{self._root}/readyz")).status_code == 200
        except httpx.HTTPError:
            return False

    async def aclose(self) -> None:
        if self._owned:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _asked(self, path: str, request: dict[str, Any], body: type[Body]) -> Body:
        async def ask() -> Body:
            with _reached():
                response = await self._http.post(self._root + path, headers=self._headers, **request)
            return wire.body_of(response, body)

        return await self._again(ask)

    @asynccontextmanager
    async def _opened(
        self, path: str, headers: dict[str, str], request: dict[str, Any]
    ) -> AsyncIterator[httpx.Response]:
        """The answer whose body is still to come; tried again as long as there is none."""

        async def ask() -> httpx.Response:
            with _reached():
                made = self._http.build_request("POST", self._root + path, headers=headers, **request)
                response = await self._http.send(made, stream=True)
                if response.status_code != 200:
                    try:
                        await response.aread()
                    finally:
                        await response.aclose()
                    raise wire.failure(response)
            return response

        response = await self._again(ask)
        try:
            yield response
        finally:
            await response.aclose()

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await retried(ask, Retries(self._max_retries, Deadline.after(self._timeout_s)), sleep=self._sleep)


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise ServiceUnreachable(f"The service did not answer: {error or type(error).__name__}.") from error
