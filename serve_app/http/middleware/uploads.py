"""Uploads of a web page: a bounded number of images, bytes and seconds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import CaptionServeError, ImageTooLarge, InvalidRequest, Overloaded
from serve_app.http import problems
from serve_app.http.body import OVERHEAD_BYTES, read_bounded
from serve_app.http.paths import route_path
from serve_app.limits import Limits
from serve_app.service import images

AT_ONCE = 4
SMALL_BYTES = 100_000
"""Smaller files may be no images: the page says of each what is wrong with it."""
SECONDS = 120.0
MOST_KEPT_BYTES = 2_000_000_000
"""Of files that visitors uploaded a while ago and that are not removed yet."""
RETRY_AFTER_S = 60.0


class UploadMiddleware:
    """Checks what is posted to the paths, and lets the application have it then."""

    def __init__(
        self, app: ASGIApp, paths: tuple[str, ...], limits: Callable[[], Limits], folder: Callable[[], Path]
    ) -> None:
        """`paths` are ends of paths; `folder` is where the application keeps uploads."""
        self._app = app
        self._paths = paths
        self._limits = limits
        self._folder = folder
        self._room = asyncio.Semaphore(AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not route_path(scope).endswith(self._paths):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            async with asyncio.timeout(SECONDS), self._room:
                body = await self._checked(request)
        except ClientDisconnect:
            return
        except TimeoutError:
            await problems.problem(request, 408, "http-408", "The upload took too long.")(scope, receive, send)
            return
        except CaptionServeError as error:
            retry_after_s = error.retry_after_s if isinstance(error, Overloaded) else None
            response = problems.problem(request, error.status, error.slug, error.message, retry_after_s)
            await response(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _checked(self, request: Request) -> bytes:
        """The body. Raises `ImageTooLarge`, `UnsupportedImage`, `InvalidImage`, `InvalidRequest` and `Overloaded`."""
        limits = self._limits()
        if await asyncio.to_thread(_size_of, self._folder()) > MOST_KEPT_BYTES:
            raise Overloaded("There are too many uploads; try again in a few minutes.", RETRY_AFTER_S)
        most = limits.max_batch_bytes
        data = bytes(await read_bounded(request, most + OVERHEAD_BYTES, most, "upload"))
        for file in await _files(request, data, limits):
            if len(file) > SMALL_BYTES:
                await asyncio.to_thread(images.check, file, limits)
        return data


async def _files(request: Request, data: bytes, limits: Limits) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes]:
        yield data

    parser = MultiPartParser(request.headers, stream(), max_files=limits.max_batch_images + 1)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        if "Too many files" in str(getattr(error, "message", "")):
            raise ImageTooLarge(f"An upload has at most {limits.max_batch_images} images.") from error
        raise InvalidRequest("The upload is no form with files.") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        if len(files) > limits.max_batch_images:
            raise ImageTooLarge(f"An upload has at most {limits.max_batch_images} images.")
        return [await file.read() for file in files]
    finally:
        await form.close()


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def received() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return received


def _size_of(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    except OSError:  # files go while they are counted
        return 0
