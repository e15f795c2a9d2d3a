"""Image text of a request: a data URI, base64, or a URL to fetch."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.deadline import Deadline
from serve_app.errors import ImageTooLarge, InvalidRequest
from serve_app.limits import Limits
from serve_app.service.fetch import Fetcher

LONG_CHARACTERS = 100_000
"""Longer base64 is decoded in a thread, so that it doesn't hold up the event loop."""


FETCHES_AT_ONCE = 8
"""Images of one request that are fetched at a time."""


def is_url(text: str) -> bool:
    return text[:8].lower().startswith(("http://", "https://"))


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image that a request names by its URL; fetched within the request's time, once its options are known."""

    url: str
    fetcher: Fetcher

    async def fetch(self, limits: Limits) -> bytes:
        """Raises what `Fetcher.fetch` raises."""
        return await self.fetcher.fetch(self.url, limits)


async def image_of(text: str, fetcher: Fetcher) -> bytes | RemoteImage:
    """The image that `text` holds or names. Raises `InvalidRequest`."""
    if is_url(text):
        return RemoteImage(text, fetcher)
    if len(text) > LONG_CHARACTERS:
        return await asyncio.to_thread(decode, text)
    return decode(text)


async def image_bytes(text: str, limits: Limits, fetcher: Fetcher) -> bytes:
    """The image that `text` holds or names. Raises `InvalidRequest`, and what `Fetcher.fetch` raises."""
    image = await image_of(text, fetcher)
    return image if isinstance(image, bytes) else await image.fetch(limits)


async def images_bytes(
    texts: Sequence[str], limits: Limits, fetcher: Fetcher, deadline: Deadline, most_bytes: int
) -> list[bytes]:
    """The images of one request, several at once. Raises as `image_bytes` does, `ImageTooLarge` if they have more than
    `most_bytes` together, and `DeadlineExceeded`."""
    room, total = asyncio.Semaphore(FETCHES_AT_ONCE), 0

    async def one(text: str) -> bytes:
        nonlocal total
        async with room:
            data = await image_bytes(text, limits, fetcher)
        total += len(data)
        if total > most_bytes:
            raise ImageTooLarge(f"The images have more than {most_bytes} bytes together.")
        return data

    tasks = [asyncio.create_task(one(text)) for text in texts]
    try:
        async with deadline.enforced("The request's time limit was reached before its images were fetched."):
            return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
