"""The tools for agents on this machine: `caption-serve mcp`, over stdin and stdout."""

from __future__ import annotations

import asyncio
from pathlib import Path

from serve_app.args import AppArgs
from serve_app.errors import ImageTooLarge, InvalidRequest
from serve_app.http.mcp import tool_server
from serve_app.limits import Limits
from serve_app.local import local_services
from serve_app.service.fetch import Fetcher
from serve_app.service.sources import RemoteImage, decode, image_of, is_url

IMAGE = "path of a file on this machine, data URI, base64 of the file, or an http(s) URL of a host that was allowed"
_LONGEST_PATH = 4096


def serve_mcp(args: AppArgs) -> None:
    """Loads the models, and answers until stdin ends. Raises `ModelError`s."""
    captions, tasks = local_services(args)
    fetcher = Fetcher()

    async def find(image: str) -> bytes | RemoteImage:
        return await asyncio.to_thread(_file, image, captions.limits) or await image_of(image, fetcher)

    asyncio.run(tool_server(captions, tasks, find, IMAGE).run_stdio_async())


def _file(name: str, limits: Limits) -> bytes | None:
    """The bytes of a local file; None for what is no path. Raises `InvalidRequest` and `ImageTooLarge`."""
    if is_url(name) or name[:5].lower() == "data:" or len(name) > _LONGEST_PATH:
        return None
    try:
        path = Path(name.removeprefix("file://")).expanduser()
        found = path.is_file()
    except (OSError, RuntimeError, ValueError):  # base64 is too long for a name, for example
        found = False
    if not found:
        if not _is_base64(name):
            raise InvalidRequest(f"image: there is no file {name[:200]}.")
        return None
    try:
        if path.stat().st_size > limits.max_image_bytes:
            raise ImageTooLarge(f"The image has more than {limits.max_image_bytes} bytes.")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"image: {name[:200]} cannot be read.") from error


def _is_base64(text: str) -> bool:
    try:
        decode(text)
    except InvalidRequest:
        return False
    return True
