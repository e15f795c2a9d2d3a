"""Several images in one request: read together, captioned a few at a time, answered as they finish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from serve_app.contract import BatchLine
from serve_app.errors import CaptionServeError, ImageTooLarge, InvalidRequest, UnsupportedImage
from serve_app.http import problems
from serve_app.http.body import IMAGE, MAX_FIELDS, OVERHEAD_BYTES, bounded, image_form, options_of
from serve_app.limits import Limits
from serve_app.options import parse_options
from serve_app.service.captions import CaptionService
from serve_app.service.several import Several


@dataclass(frozen=True, slots=True)
class BatchImage:
    """One image of the batch."""

    index: int
    name: str | None
    data: bytes


async def read_batch_request(request: Request, limits: Limits) -> tuple[list[BatchImage], dict[str, Any]]:
    """Returns the images and the options that hold for all of them.

    Raises `InvalidRequest`, `ImageTooLarge`, `UnsupportedImage` and `InvalidOption`.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UnsupportedImage(f"The content type {kind[:80]!r} is not accepted; send multipart/form-data.")
    receive = bounded(request.receive, limits.max_batch_bytes + OVERHEAD_BYTES, limits.max_batch_bytes, "batch")
    limited = Request(request.scope, receive)
    # One more than allowed, so that too many are our error and not the form parser's.
    files = limits.max_batch_images + 1
    try:
        async with image_form(limited, max_files=files, max_fields=MAX_FIELDS) as form:
            items = form.multi_items()
            uploads = [value for name, value in items if name == IMAGE and isinstance(value, UploadFile)]
            if not uploads:
                raise InvalidRequest("The form has no field named 'image'.")
            if len(uploads) > limits.max_batch_images:
                raise ImageTooLarge(f"The batch has more than {limits.max_batch_images} images.")
            parts = [BatchImage(index, upload.filename, await upload.read()) for index, upload in enumerate(uploads)]
    except InvalidRequest as error:
        if "Too many files" in error.message:  # starlette's words
            raise ImageTooLarge(f"The batch has more than {limits.max_batch_images} images.") from error
        raise
    texts = [(name, value) for name, value in items if name != IMAGE and isinstance(value, str)]
    options = options_of([*request.query_params.multi_items(), *texts])
    parse_options(options, limits)
    return parts, options


async def batch_lines(
    service: CaptionService, parts: Sequence[BatchImage], options: dict[str, Any], request_id: str
) -> AsyncGenerator[BatchLine, None]:
    """Yields a line for each image as it is done; an image's error is its line. Closing ends the work."""
    several = Several(service)

    async def line(part: BatchImage) -> BatchLine:
        name = f"{request_id}-{part.index}"
        try:
            body = await several.caption(part.data, options, name)
            return BatchLine(index=part.index, name=part.name, result=body)
        except CaptionServeError as error:
            return BatchLine(index=part.index, name=part.name, error=problems.body_of(error, name, service.limits))

    tasks = [asyncio.create_task(line(part)) for part in parts]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
