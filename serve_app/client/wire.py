"""Requests and answers, the same for both clients."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from serve_app import tasks
from serve_app.client.errors import ServiceUnreachable, UnexpectedAnswer, from_answer, from_problem
from serve_app.client.images import is_url, named_bytes
from serve_app.client.options import form_fields
from serve_app.contract import (
    EVENT,
    AnswerBody,
    BatchLine,
    CaptionBody,
    EmbeddingsBody,
    ErrorEvent,
    FilterBody,
    MatchBody,
    ResultEvent,
    StepEvent,
)
from serve_app.errors import CaptionServeError

CAPTIONS, BATCH = "/v1/captions", "/v1/captions/batch"
Body = TypeVar("Body", bound=BaseModel)
EVENT_STREAM = {"Accept": "text/event-stream"}
KEY_VARIABLE = "CAPTION_SERVE_API_KEY"


@dataclass(frozen=True)
class Call(Generic[Body]):
    """One request, and what its answer is read as."""

    path: str
    body: type[Body]
    request: Callable[[], dict[str, Any]]
    """Keyword arguments of httpx's request; reads and encodes the images, so it blocks."""
    headers: Mapping[str, str] = field(default_factory=dict)


CONNECT_S = 10.0
READY_S = 10.0
BATCH_IMAGES, BATCH_BYTES = 64, 50_000_000
"""Of one request: below `max_batch_images` and `max_batch_bytes` as they are by default."""


def patience(timeout_s: float) -> httpx.Timeout:
    """A server that is not there is told soon, and one that works is waited for."""
    return httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))


def caption(image: Any, options: Mapping[str, Any]) -> Call[CaptionBody]:
    return Call(CAPTIONS, CaptionBody, partial(_of_image, image, options))


def stream(image: Any, options: Mapping[str, Any]) -> Call[CaptionBody]:
    return replace(caption(image, options), headers=EVENT_STREAM)


def batches(images: Iterable[Any], options: Mapping[str, Any]) -> Iterator[tuple[int, Call[BatchLine]]]:
    """Requests for the images, as many in each as a service takes by default, with the place of its first one."""
    first, size, group = 0, 0, list[Any]()
    for image in images:
        file = named_bytes(image)
        length = len(file[1])
        if group and (len(group) == BATCH_IMAGES or size + length > BATCH_BYTES):
            yield first, Call(BATCH, BatchLine, partial(_of_files, group, options))
            first, size, group = first + len(group), 0, []
        group.append(file)
        size += length
    if group:
        yield first, Call(BATCH, BatchLine, partial(_of_files, group, options))


def answer(image: Any, question: str | Sequence[str], timeout_s: float | None) -> Call[AnswerBody]:
    asked = {"question": question} if isinstance(question, str) else {"questions": list(question)}
    options = {**asked, "timeout_s": timeout_s}
    return Call(tasks.ANSWERS.path, AnswerBody, partial(_of_image, image, options))


def match(image: Any, texts: Sequence[str], timeout_s: float | None) -> Call[MatchBody]:
    options = {"texts": list(texts), "timeout_s": timeout_s}
    return Call(tasks.MATCHES.path, MatchBody, partial(_of_image, image, options))


def filtering(image: Any, texts: Sequence[str], options: Mapping[str, Any]) -> Call[FilterBody]:
    return Call(tasks.FILTERS.path, FilterBody, partial(_of_image, image, {"texts": list(texts), **options}))


def embed(images: Sequence[Any], texts: Sequence[str]) -> Call[EmbeddingsBody]:
    return Call(tasks.EMBEDDINGS.path, EmbeddingsBody, partial(_of_vectors, images, texts))


def vectors_of(body: EmbeddingsBody, texts: int) -> list[list[float]]:
    """Those of the images, then those of the texts, which come first in the answer."""
    vectors = [entry.embedding for entry in body.data if not isinstance(entry.embedding, str)]
    return vectors[texts:] + vectors[:texts]


def _of_image(image: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """A URL is for the service to fetch."""
    if is_url(image):
        return {"json": {"image": image, **{name: value for name, value in options.items() if value is not None}}}
    return {"files": {"image": named_bytes(image)}, "data": form_fields(options)}


def _of_files(files: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    return {"files": [("image", file) for file in files], "data": form_fields(options)}


def _of_vectors(images: Iterable[Any], texts: Sequence[str]) -> dict[str, Any]:
    """Images that are no URLs travel as base64."""
    encoded = [image if is_url(image) else base64.b64encode(named_bytes(image)[1]).decode() for image in images]
    return {"json": {"input": list(texts), "images": encoded}}


@contextmanager
def reached() -> Iterator[None]:
    """Raises `ServiceUnreachable` for errors of the connection."""
    try:
        yield
    except httpx.HTTPError as error:
        raise ServiceUnreachable(f"The service did not answer: {error or type(error).__name__}.") from error


def headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def failure(response: httpx.Response) -> CaptionServeError:
    """The error of an answer whose body was read."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    return from_answer(response.status_code, response.headers, body)


def body_of(response: httpx.Response, body: type[Body]) -> Body:
    """The answer's body. Raises the service's errors, and `UnexpectedAnswer`."""
    if response.status_code != 200:
        raise failure(response)
    try:
        return body.model_validate_json(response.content)
    except ValidationError:
        raise UnexpectedAnswer(f"The answer was no {body.__name__}.", response.status_code) from None


def batch_line(line: str, first: int) -> BatchLine:
    """The line of an image, whose place counts from that of its request's first one."""
    try:
        found = BatchLine.model_validate_json(line)
        return found.model_copy(update={"index": first + found.index})
    except ValidationError:
        raise UnexpectedAnswer("A line of the answer cannot be read.", 200) from None


class EventReader:
    """Server-sent events, line by line."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Iterator[StepEvent | ResultEvent]:
        """Yields the event that the line completes, if any. Raises the service's error if the event is one."""
        if line:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if field == "event":
                self._name = value
            elif field == "data":
                self._data.append(value)
            return
        name, data, self._name, self._data = self._name, "\n".join(self._data), "", []
        if not data:
            return
        try:
            event = EVENT.validate_python({**json.loads(data), "event": name})
        except (ValueError, TypeError):
            raise UnexpectedAnswer("An event of the answer cannot be read.", 200) from None
        if isinstance(event, ErrorEvent):
            raise from_problem(event)
        yield event


ENDED = "The connection ended before the result was there."
