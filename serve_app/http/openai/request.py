"""From a chat request's body to the images and options of its captions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from serve_app.errors import ImageTooLarge, InvalidOption, InvalidRequest
from serve_app.http.body import OVERHEAD_BYTES, read_bounded
from serve_app.http.json_size import check_json_size
from serve_app.http.openai.schemas import PARTS, ChatMessage, ChatRequest, ImagePart, ImageUrl, TextPart
from serve_app.limits import Limits
from serve_app.options import given, offered, parse_options
from serve_app.service.fetch import Fetcher
from serve_app.service.sources import image_bytes

NO_IMAGE = "This service captions images; add an image_url part to a user message."
_UNSUPPORTED = ("tools", "functions", "logprobs", "audio")


@dataclass(frozen=True, slots=True)
class ChatCaptions:
    """What a chat request asks for: captions of `images`, once for each of `choices` seeds."""

    chat: ChatRequest
    images: list[bytes]
    options: list[dict[str, Any]]
    """For each image."""
    text: str

    @property
    def choices(self) -> int:
        return self.chat.n or 1


async def read_chat(request: Request, limits: Limits, fetcher: Fetcher) -> ChatCaptions:
    """Raises `InvalidRequest`, `InvalidOption`, `ImageTooLarge` and what `image_bytes` raises."""
    most = limits.max_batch_bytes
    data = await read_bounded(request, most * 4 // 3 + OVERHEAD_BYTES, most, "request")
    chat = await asyncio.to_thread(_parse, data)
    urls, text = _asked(chat.messages)
    text = _shortened(text, limits.max_prompt_characters)
    if len(urls) > limits.max_batch_images:
        raise ImageTooLarge(f"The message has more than {limits.max_batch_images} images.")
    options = [_options(url, text, chat, words) for url, words in zip(urls, _most_words(chat, len(urls)), strict=True)]
    for each in options:
        parse_options(each, limits)
    images, size = [], 0
    for url in urls:
        images.append(await image_bytes(url.url, limits, fetcher))
        size += len(images[-1])
        if size > limits.max_batch_bytes:
            raise ImageTooLarge(f"The images have more than {limits.max_batch_bytes} bytes together.")
    return ChatCaptions(chat, images, options, text)


def _parse(data: bytearray) -> ChatRequest:
    check_json_size(data)
    try:
        chat = ChatRequest.model_validate_json(data)
    except ValidationError as error:
        raise _invalid(error) from error
    for name in _UNSUPPORTED:
        if (chat.model_extra or {}).get(name):
            raise InvalidOption(f"{name}: not supported; this service only captions images.")
    kind = (chat.model_extra or {}).get("response_format")
    if isinstance(kind, dict) and kind.get("type") not in (None, "text"):
        raise InvalidOption("response_format: captions are text.")
    return chat


def _invalid(error: ValidationError) -> InvalidRequest:
    """Names the field at fault: of the errors of a union's members the deepest one."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    fault = max(faults, key=lambda each: len(each["loc"]))
    name = ".".join(map(str, fault["loc"]))[:80]
    return InvalidRequest(f"{name}: {fault['msg']}." if name else f"The body is no chat request: {fault['msg']}.")


def _asked(messages: list[ChatMessage]) -> tuple[list[ImageUrl], str]:
    """The images of the last user message that has any, and its text. Raises `InvalidRequest`."""
    for number, message in reversed([*enumerate(messages)]):
        if message.role == "user" and isinstance(message.content, list) and _has_image(message.content):
            parts = _parts(number, message.content)
            texts = [part.text for part in parts if isinstance(part, TextPart)]
            urls = [part.image_url for part in parts if isinstance(part, ImagePart)]
            return urls, " ".join(" ".join(texts).split())
    for number, message in enumerate(messages):
        if message.role == "user" and isinstance(message.content, list):
            _parts(number, message.content)  # says of a part that may be meant for an image what is wrong with it
    raise InvalidRequest(NO_IMAGE)


def _has_image(content: list[dict[str, Any]]) -> bool:
    return any(part.get("type") == "image_url" for part in content)


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


def _shortened(text: str, most: int) -> str:
    """As many whole words as a prompt may have: an instruction to a chat model may be longer."""
    return text if len(text) <= most else text[: most + 1].rpartition(" ")[0][:most]


def _most_words(chat: ChatRequest, images: int) -> list[int | None]:
    """What each image's caption may have: an equal share of the answer's words, without the numbers of its lines."""
    most = chat.max_completion_tokens or chat.max_tokens
    if most is None:
        return [chat.max_words] * images
    share, rest = divmod(most - (images if images > 1 else 0), images)
    shares = [max(1, share + (place < rest)) for place in range(images)]
    return [min(words, chat.max_words or words) for words in shares]


def _options(url: ImageUrl, text: str, chat: ChatRequest, most_words: int | None) -> dict[str, Any]:
    return given(
        {
            **{name: getattr(chat, name) for name in offered("chat")},
            "detail": None if url.detail in (None, "auto") else url.detail,
            "extra_prompts": [text] if text else None,
            "max_words": most_words,
        }
    )
