"""Reading a caption request: multipart form, raw image, or JSON, never more bytes than allowed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.types import Message, Receive

from serve_app.errors import ImageTooLarge, InvalidOption, InvalidRequest, UnsupportedImage
from serve_app.http.json_size import check_json_size
from serve_app.limits import Limits
from serve_app.options import Options, lists
from serve_app.service.fetch import Fetcher
from serve_app.service.sources import RemoteImage, image_of
from serve_app.tasks import TASKS

OVERHEAD_BYTES = 256 * 1024
"""Room for option fields and multipart borders besides the image."""
MAX_FIELDS = 64
"""Option fields besides texts."""
IMAGE = "image"
_EXTENDED_NAME = re.compile(rb"filename\*\s*=\s*[\w-]*'[\w-]*'([^;\s]+)", re.IGNORECASE)
"""RFC 8187: charset'language'escaped."""
_LISTS = lists([Options, *(task.options for task in TASKS)])


async def read_caption_request(
    request: Request, limits: Limits, fetcher: Fetcher
) -> tuple[bytes | RemoteImage, dict[str, Any]]:
    """Returns the image, which may be still to be fetched, and the raw options.

    Raises `InvalidRequest`, `ImageTooLarge`, `InvalidOption`, and `UnsupportedImage` for a body of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, limits)
    if kind == "application/json":
        return await _json(request, limits, fetcher)
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return await _raw(request, limits)
    raise UnsupportedImage(
        f"The content type {kind[:80]!r} is not accepted; send multipart/form-data, image/* or application/json."
    )


async def discard(request: Request, limits: Limits) -> None:
    """Takes the body off the connection and keeps nothing. Raises `ImageTooLarge` like the readers."""
    receive = bounded(request.receive, limits.max_image_bytes * 4 // 3 + OVERHEAD_BYTES, limits.max_image_bytes)
    async for _ in Request(request.scope, receive).stream():
        pass


async def _raw(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    data = await read_bounded(request, limits.max_image_bytes, limits.max_image_bytes)
    return bytes(data), options_of(request.query_params.multi_items())


async def _form(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    most = limits.max_image_bytes
    limited = Request(request.scope, bounded(request.receive, most + OVERHEAD_BYTES, most))
    async with image_form(limited, max_files=1, max_fields=MAX_FIELDS + limits.max_texts) as form:
        image = form.get(IMAGE)
        if not isinstance(image, UploadFile):
            raise InvalidRequest("The form has no field named 'image'.")
        data = await image.read()
        fields = [(name, value) for name, value in form.multi_items() if name != IMAGE]
    texts = [(name, value) for name, value in fields if isinstance(value, str)]
    return data, options_of([*request.query_params.multi_items(), *texts])


@asynccontextmanager
async def image_form(request: Request, *, max_files: int, max_fields: int) -> AsyncIterator[FormData]:
    """A multipart form, closed afterwards. Raises `InvalidRequest`."""
    parser = _ImageFormParser(
        request.headers, request.stream(), max_files=max_files, max_fields=max_fields, max_part_size=OVERHEAD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise InvalidRequest(f"The form cannot be read: {error.message}") from error
    try:
        yield form
    finally:
        await form.close()


class _ImageFormParser(MultiPartParser):
    """Takes every part named `image` for a file: RFC 7578 lets a client leave its `filename` out."""

    def on_headers_finished(self) -> None:
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        is_nameless = options.get(b"name") == IMAGE.encode() and b"filename" not in options
        if is_nameless:
            part.content_disposition = (part.content_disposition or b"form-data") + b'; filename="image"'
        super().on_headers_finished()
        if is_nameless and part.file is not None:
            name = _EXTENDED_NAME.search(part.content_disposition or b"")
            part.file.filename = unquote(name[1].decode("latin-1")) if name else None


async def _json(request: Request, limits: Limits, fetcher: Fetcher) -> tuple[bytes | RemoteImage, dict[str, Any]]:
    most = limits.max_image_bytes
    data = await read_bounded(request, most * 4 // 3 + OVERHEAD_BYTES, most)
    # In a thread: tens of megabytes of base64 would hold up the event loop.
    image, body = await asyncio.to_thread(_parse_json, data)
    found = await image_of(image, fetcher)
    query = options_of(request.query_params.multi_items())
    if both := sorted(query.keys() & body.keys()):
        raise InvalidOption(f"{both[0]}: given in the query and in the body.")
    return found, {**query, **body}


async def read_json_object(request: Request, most_image_bytes: int) -> dict[str, Any]:
    """A JSON body that may hold images of so many bytes together.

    Raises `InvalidRequest`, `ImageTooLarge`, and `UnsupportedImage` for a body of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedImage(f"The content type {kind[:80]!r} is not accepted; send application/json.")
    data = await read_bounded(request, most_image_bytes * 4 // 3 + OVERHEAD_BYTES, most_image_bytes, "images together")
    return await asyncio.to_thread(_json_object, data)


def _json_object(data: bytearray) -> dict[str, Any]:
    check_json_size(data)
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The JSON body must be an object.")
    return body


def _parse_json(data: bytearray) -> tuple[str, dict[str, Any]]:
    body = _json_object(data)
    image = body.pop(IMAGE, None)
    if not isinstance(image, str):
        raise InvalidRequest("The JSON body needs 'image': a data URI, base64 text or a URL.")
    return image, body


def options_of(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Options from fields or the query; a repeated name is an error unless the option is a list."""
    options: dict[str, Any] = {}
    for name, value in pairs:
        if name in _LISTS:
            options.setdefault(name, []).append(value)
        elif value == "":
            continue
        elif name in options:
            raise InvalidOption(f"{name[:80]}: given more than once.")
        else:
            options[name] = value
    return options


async def read_bounded(request: Request, most: int, accepted: int, noun: str = "image") -> bytearray:
    """The body. Raises `ImageTooLarge` as `bounded` does."""
    chunks = bytearray()
    receive = bounded(request.receive, most, accepted, noun)
    async for chunk in Request(request.scope, receive).stream():
        chunks += chunk
    return chunks


def bounded(receive: Receive, most: int, accepted: int, noun: str = "image") -> Receive:
    """A `receive` that raises `ImageTooLarge` as soon as more than `most` bytes of body have come.

    The error says that the `noun` may have `accepted` bytes.
    """
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise ImageTooLarge(f"The {noun} has more than {accepted} bytes.")
        return message

    return counted
