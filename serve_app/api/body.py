"""Reading a caption request: multipart form, raw image, or JSON, never more bytes than allowed."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from serve_app.errors import ImageTooLarge, InvalidOption, InvalidRequest, UnsupportedImage
from serve_app.types import Limits

_OVERHEAD_BYTES = 256 * 1024
"""Room for option fields and multipart borders besides the image."""
_MAX_FIELDS = 64
_IMAGE = "image"
_LISTS = ("prompts",)


async def read_caption_request(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    """Returns the image's bytes and the raw options.

    Raises `InvalidRequest`, `ImageTooLarge`, `InvalidOption`, and `UnsupportedImage` for a body of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, limits)
    if kind == "application/json":
        return await _json(request, limits)
    if kind.startswith("image/") or kind in ("application/octet-stream", ""):
        return await _raw(request, limits)
    raise UnsupportedImage(
        f"The content type {kind[:80]!r} is not accepted; send multipart/form-data, image/* or application/json."
    )


async def discard(request: Request, limits: Limits) -> None:
    """Takes the body off the connection and keeps nothing. Raises `ImageTooLarge` like the readers."""
    receive = _bounded(request.receive, limits.max_image_bytes * 4 // 3 + _OVERHEAD_BYTES, limits)
    async for _ in Request(request.scope, receive).stream():
        pass


async def _raw(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    data = await _read(request, limits.max_image_bytes)
    return data, _options(request.query_params.multi_items())


async def _form(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    bounded = Request(request.scope, _bounded(request.receive, limits.max_image_bytes + _OVERHEAD_BYTES, limits))
    try:
        async with bounded.form(max_files=1, max_fields=_MAX_FIELDS, max_part_size=_OVERHEAD_BYTES) as form:
            image = form.get(_IMAGE)
            if not isinstance(image, UploadFile):
                raise InvalidRequest("The form has no file field named 'image'.")
            data = await image.read()
            fields = [(name, value) for name, value in form.multi_items() if name != _IMAGE]
    except HTTPException as error:
        raise InvalidRequest(f"The form cannot be read: {error.detail}") from error
    texts = [(name, value) for name, value in fields if isinstance(value, str)]
    return data, _options([*request.query_params.multi_items(), *texts])


async def _json(request: Request, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    data = await _read(request, limits.max_image_bytes * 4 // 3 + _OVERHEAD_BYTES, limits)
    # In a thread: tens of megabytes of base64 would hold up the event loop.
    image, body = await asyncio.to_thread(_parse_json, data)
    query = _options(request.query_params.multi_items())
    if both := sorted(query.keys() & body.keys()):
        raise InvalidOption(f"{both[0]}: given in the query and in the body.")
    return image, {**query, **body}


def _parse_json(data: bytes) -> tuple[bytes, dict[str, Any]]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The JSON body must be an object with the key 'image'.")
    image = body.pop(_IMAGE, None)
    if not isinstance(image, str):
        raise InvalidRequest("The JSON body needs 'image': a data URI or base64 text.")
    return decode_image_text(image), body


def decode_image_text(text: str) -> bytes:
    """The bytes of a data URI or of plain base64."""
    if text[:8].lower().startswith(("http://", "https://")):
        raise InvalidOption("image: this service does not fetch URLs; send the image itself.")
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise InvalidRequest("The data URI must be of the form data:image/…;base64,….")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("The image is not valid base64.") from error


def _options(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Options from fields or the query; a repeated name is an error unless the option is a list."""
    options: dict[str, Any] = {}
    for name, value in pairs:
        if value == "":
            continue
        if name in _LISTS:
            options.setdefault(name, []).append(value)
        elif name in options:
            raise InvalidOption(f"{name[:80]}: given more than once.")
        else:
            options[name] = value
    return options


async def _read(request: Request, most: int, limits: Limits | None = None) -> bytes:
    chunks = bytearray()
    receive = _bounded(request.receive, most, limits)
    async for chunk in Request(request.scope, receive).stream():
        chunks += chunk
    return bytes(chunks)


def _bounded(receive: Receive, most: int, limits: Limits | None = None) -> Receive:
    """A `receive` that raises `ImageTooLarge` as soon as more than `most` bytes of body have come."""
    accepted = limits.max_image_bytes if limits else most
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise ImageTooLarge(f"The image has more than {accepted} bytes.")
        return message

    return bounded
