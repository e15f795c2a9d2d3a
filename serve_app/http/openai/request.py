"""From a chat request's body to the images and options of its captions, or to its question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from serve_app.deadline import Deadline
from serve_app.errors import ImageTooLarge, InvalidOption, InvalidRequest
from serve_app.http.body import OVERHEAD_BYTES, read_bounded
from serve_app.http.json_size import check_json_size
from serve_app.http.openai.formats import Format
from serve_app.http.openai.instructions import Instructions, read_instructions
from serve_app.http.openai.schemas import PARTS, ChatMessage, ChatRequest, ImagePart, ImageUrl, TextPart
from serve_app.limits import Limits
from serve_app.options import given, offered, parse_options
from serve_app.service.fetch import Fetcher
from serve_app.service.sources import images_bytes

NO_IMAGE = "This service describes images and answers questions about them; add an image_url part to a user message."
LONGEST_READ = 8000
"""Characters of a message that are looked at: lengths and questions stand in its beginning."""
_UNSUPPORTED = ("tools", "functions", "logprobs", "audio")


@dataclass(frozen=True, slots=True)
class ChatTask:
    """What a chat request asks for: captions of `images`, once for each of `choices` seeds, or an answer."""

    chat: ChatRequest
    images: list[bytes]
    options: list[dict[str, Any]]
    """For each image."""
    text: str
    question: str | None
    format: Format

    @property
    def choices(self) -> int:
        return self.chat.n or 1


def using(task: ChatTask, captioners: Sequence[str]) -> ChatTask:
    """The task with those captioners unless it names some itself."""
    if not captioners:
        return task
    return replace(task, options=[{"use": list(captioners), **each} for each in task.options])


async def read_chat(request: Request, limits: Limits, fetcher: Fetcher) -> ChatTask:
    """Raises what `task_of` raises, and `ImageTooLarge` for a body with too many bytes."""
    data = await read_json(request, limits)
    return await task_of(await asyncio.to_thread(_parse, data), limits, fetcher)


async def read_json(request: Request, limits: Limits) -> bytearray:
    """The body of a request with as many bytes of images as a batch may have. Raises `ImageTooLarge`."""
    most = limits.max_batch_bytes
    return await read_bounded(request, most * 4 // 3 + OVERHEAD_BYTES, most, "request")


async def task_of(chat: ChatRequest, limits: Limits, fetcher: Fetcher) -> ChatTask:
    """Raises `InvalidRequest`, `InvalidOption`, `ImageTooLarge` and what `image_bytes` raises."""
    for name in _UNSUPPORTED:
        if (chat.model_extra or {}).get(name):
            raise InvalidOption(f"{name}: not supported; this service only describes images.")
    urls = _images(chat.messages)
    texts = [_text(message) for message in chat.messages if message.role == "user"]
    text = texts[-1] if texts else ""
    if not urls and limits.chat_without_image == "reject":
        raise InvalidRequest(NO_IMAGE)
    if len(urls) > limits.max_batch_images:
        raise ImageTooLarge(f"The message has more than {limits.max_batch_images} images.")
    system = [_text(message) for message in chat.messages if message.role in ("system", "developer")]
    asked = read_instructions(text, system)
    words = _most_words(chat, asked, len(urls))
    options = [_options(url, chat, asked, most) for url, most in zip(urls, words, strict=True)]
    for each in options:
        parse_options(each, limits)
    form = Format.of(chat.response_format, question=asked.question is not None)
    deadline = Deadline.after(limits.default_timeout_s)
    images = await images_bytes([url.url for url in urls], limits, fetcher, deadline, limits.max_batch_bytes)
    return ChatTask(chat, images, options, text, asked.question, form)


def _parse(data: bytearray) -> ChatRequest:
    check_json_size(data)
    try:
        return ChatRequest.model_validate_json(data)
    except ValidationError as error:
        raise invalid(error) from error


def invalid(error: ValidationError) -> InvalidRequest:
    """Names the field at fault: of the errors of a union's members the deepest one."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    fault = max(faults, key=lambda each: len(each["loc"]))
    name = ".".join(map(str, fault["loc"]))[:80]
    return InvalidRequest(f"{name}: {fault['msg']}." if name else f"The body is no chat request: {fault['msg']}.")


def _images(messages: list[ChatMessage]) -> list[ImageUrl]:
    """The images of the last user message that has any; none if no message has.

    Raises `InvalidRequest` for a part of that message, or of any if there is none, that is not as it has to be.
    """
    for number, message in reversed([*enumerate(messages)]):
        if message.role == "user" and isinstance(message.content, list) and _has_image(message.content):
            parts = _parts(number, message.content)
            return [part.image_url for part in parts if isinstance(part, ImagePart)]
    for number, message in enumerate(messages):
        if message.role == "user" and isinstance(message.content, list):
            _parts(number, message.content)  # says of a part that may be meant for an image what is wrong with it
    return []


def _has_image(content: list[dict[str, Any]]) -> bool:
    return any(part.get("type") == "image_url" for part in content)


def _text(message: ChatMessage) -> str:
    """The words of a message's beginning, whatever else it has."""
    content = message.content
    if isinstance(content, list):
        texts = [text[:LONGEST_READ] for part in content if isinstance(text := part.get("text"), str)]
        content = " ".join(texts)
    return " ".join((content or "")[:LONGEST_READ].split())


def _parts(number: int, content: list[dict[str, Any]]) -> list[TextPart | ImagePart]:
    """The parts of a message. Raises `InvalidRequest` that names the one at fault."""
    parts = []
    for place, part in enumerate(content):
        try:
            parts += PARTS.validate_python([part])
        except ValidationError as error:
            fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
            inner = fault["loc"][1:]  # behind the place in the list
            fields = inner[1:] if inner[:1] == (part.get("type"),) else inner
            name = ".".join(map(str, ("messages", number, "content", place, *fields)))
            raise InvalidRequest(f"{name}: {fault['msg']}.") from error
    return parts


def _most_words(chat: ChatRequest, asked: Instructions, images: int) -> list[int | None]:
    """What each image's caption may have: what is asked for, and at most an equal share of the answer's words, without
    the numbers of its lines."""
    each = min((words for words in (chat.max_words, asked.max_words) if words), default=None)
    most = chat.max_completion_tokens or chat.max_tokens
    if most is None or not images:
        return [each] * images
    share, rest = divmod(most - (images if images > 1 else 0), images)
    shares = [max(1, share + (place < rest)) for place in range(images)]
    return [min(words, each or words) for words in shares]


def _options(url: ImageUrl, chat: ChatRequest, asked: Instructions, most_words: int | None) -> dict[str, Any]:
    own = {name: getattr(chat, name) for name in offered("chat")}
    return given(
        {
            **own,
            "detail": asked.detail if url.detail in (None, "auto") else url.detail,
            "max_words": most_words,
            "max_characters": own["max_characters"] or asked.max_characters,
        }
    )
