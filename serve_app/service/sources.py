"""Image text of a request: a data URI, base64, or a URL to fetch."""

from __future__ import annotations

import asyncio
import base64
import binascii

from serve_app.errors import InvalidRequest
from serve_app.limits import Limits
from serve_app.service.fetch import Fetcher

LONG_CHARACTERS = 100_000
"""Longer base64 is decoded in a thread, so that it doesn't hold up the event loop."""


def is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


async def image_bytes(text: str, limits: Limits, fetcher: Fetcher) -> bytes:
    """The image that `text` holds or names. Raises `InvalidRequest`, and what `Fetcher.fetch` raises."""
    if is_url(text):
        return await fetcher.fetch(text, limits)
    if len(text) > LONG_CHARACTERS:
        return await asyncio.to_thread(decode, text)
    return decode(text)


def decode(text: str) -> bytes:
    """The bytes of a data URI or of plain base64. Raises `InvalidRequest`."""
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise InvalidRequest("The data URI must be of the form data:image/…;base64,….")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("The image is not valid base64.") from error
