"""Requests and answers, the same for both clients."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from serve_app.client.errors import UnexpectedAnswer, from_answer, from_problem
from serve_app.client.images import is_url, named_bytes
from serve_app.client.options import form_fields
from serve_app.contract import EVENT, BatchLine, ErrorEvent, ResultEvent, StepEvent
from serve_app.errors import CaptionServeError

CAPTIONS, BATCH = "/v1/captions", "/v1/captions/batch"
Body = TypeVar("Body", bound=BaseModel)
EVENT_STREAM = {"Accept": "text/event-stream"}
KEY_VARIABLE = "CAPTION_SERVE_API_KEY"


def caption_request(image: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of an httpx request for one image; a URL is for the service to fetch."""
    if is_url(image):
        return {"json": {"image": image, **{name: value for name, value in options.items() if value is not None}}}
    return {"files": {"image": named_bytes(image)}, "data": form_fields(options)}


def batch_request(images: Iterable[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The same for several images."""
    return {"files": [("image", named_bytes(image)) for image in images], "data": form_fields(options)}


def headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def failure(response: httpx.Response) -> CaptionServeError:
    """The error of an answer whose body was read."""
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    return from_answer(response.status_code, response.headers, body)


def embedding_request(images: Iterable[Any], texts: Sequence[str]) -> dict[str, Any]:
    """The same for vectors; images that are no URLs travel as base64."""
    encoded = [image if is_url(image) else base64.b64encode(named_bytes(image)[1]).decode() for image in images]
    return {"json": {"input": list(texts), "images": encoded}}


def body_of(response: httpx.Response, body: type[Body]) -> Body:
    """The answer's body. Raises the service's errors, and `UnexpectedAnswer`."""
    if response.status_code != 200:
        raise failure(response)
    try:
        return body.model_validate_json(response.content)
    except ValidationError:
        raise UnexpectedAnswer(f"The answer was no {body.__name__}.", response.status_code) from None


def batch_line(line: str) -> BatchLine:
    try:
        return BatchLine.model_validate_json(line)
    except ValidationError:
        raise UnexpectedAnswer("A line of the answer cannot be read.", 200) from None


class EventReader:
    """Server-sent events, line by line."""

    def __init__(self) -> None:
        self._name = ""
        self._data: list[str] = []

    def feed(self, line: str) -> Iterator[StepEvent | ResultEvent]:
        """Yields the event that the line completes, if any. Raises the service's error that an event tells of."""
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
