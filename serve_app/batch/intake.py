"""Reading and decoding of inputs on CPUs: the first stage of the job."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

from serve_app.batch import index, tables
from serve_app.batch.folder import Folder, read_range, reason_of
from serve_app.batch.inputs import Input
from serve_app.batch.rows import reason_of as reason_name
from serve_app.batch.settings import JobSettings
from serve_app.errors import CaptionServeError, ImageTooLarge
from serve_app.limits import Limits
from serve_app.service import images
from serve_app.service.fetch import Fetcher
from serve_app.types import Picture, Pixels, Size

THREADS = 4
"""Of one reading task: storage and decoders wait for one another."""

RAW = Size(0, 0)
"""Of an image that was not decoded."""
Data = bytes | tuple[str, str]
"""An image's bytes, or (reason, sentence)."""


def read_all(inputs: Sequence[Input], settings: JobSettings) -> Iterator[Data]:
    """The bytes of the inputs, in order; several are read at once."""
    limits = settings.limits()
    with ThreadPoolExecutor(THREADS) as threads:
        for group in _groups(inputs):
            if group[0].row >= 0:
                yield from _cells(group, settings)
            else:
                yield from threads.map(lambda item: _read(item, limits), group)


def _groups(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """Runs of inputs that are read together: cells of one table, or sixteen files."""
    group: list[Input] = []
    for item in inputs:
        same = bool(group) and (item.row >= 0) == (group[0].row >= 0) and (item.row < 0 or item.file == group[0].file)
        if group and (not same or len(group) >= 16):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _read(item: Input, limits: Limits) -> Data:
    if item.error:
        reason, _, sentence = item.error.partition(": ")
        return reason, sentence
    try:
        location = item.location
        if isinstance(location, str) and location.startswith(("http://", "https://")) and item.size < 0:
            return asyncio.run(Fetcher().fetch(location, limits))
        size = item.size if item.size >= 0 else limits.max_image_bytes + 1  # one more: too large shows
        if item.size < 0 and isinstance(location, str):
            size = -1
        return read_range(location, item.start, size)
    except CaptionServeError as error:
        return reason_name(error), error.message
    except FileNotFoundError:
        return "not_found", "There is no such file."
    except PermissionError as error:
        return "unreadable", f"The file cannot be read: {reason_of(error)}."
    except Exception as error:  # storage libraries raise errors of their own
        return "unreadable", f"The file cannot be read: {reason_of(error)[:200]}."


def _cells(group: Sequence[Input], settings: JobSettings) -> Iterator[Data]:
    limits, had = settings.limits(), 0
    try:
        cells = tables.read_cells(group[0].file.decode(), settings.column, [item.row for item in group])
        for cell in cells:
            had += 1
            if isinstance(cell, Input):
                yield _read(cell, limits)
            else:
                yield bytes(cell) if cell else ("empty", "The cell is empty.")
        problem = "it has fewer rows than before"
    except Exception as error:  # as above, and a table that changed
        problem = error.message if isinstance(error, CaptionServeError) else reason_of(error)[:200]
    yield from (("unreadable", f"The table cannot be read: {problem.rstrip('.')}.") for _ in group[had:])


@dataclass(frozen=True)
class Reader:
    """What a reading task does for each shard number: yields columns of about `batch_size` images.

    `takes` are the sizes that the models need; None leaves them as they are, for a service to decode.
    """

    folder: Folder
    settings: JobSettings
    takes: tuple[Size, ...] | None
    batch_size: int
    done: dict[int, frozenset[int]]
    """Places of each begun shard that have their rows."""

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for shard in batch["shard"]:
            yield from self._shard(int(shard))

    def _shard(self, shard: int) -> Iterator[dict[str, Any]]:
        have = self.done.get(shard, frozenset())
        places = [(place, item) for place, item in enumerate(index.load(self.folder, shard)) if place not in have]
        for start in range(0, len(places), self.batch_size):
            yield self.columns(shard, places[start : start + self.batch_size])

    def columns(self, shard: int, places: Sequence[tuple[int, Input]]) -> dict[str, Any]:
        """What the captioning stage takes: one batch of images, or of why there is none."""
        limits = self.settings.limits()
        data = read_all([item for _, item in places], self.settings)
        with ThreadPoolExecutor(THREADS) as threads:
            decoded = list(threads.map(lambda found: self._decode(found, limits), data))
        return {
            "shard": [shard] * len(places),
            "place": [place for place, _ in places],
            "input": [_packed(item) for _, item in places],
            "digest": ["" if isinstance(image, tuple) else _digest(image) for image in decoded],
            "image": [b"" if isinstance(image, tuple) else packed_picture(image) for image in decoded],
            "reason": [image[0] if isinstance(image, tuple) else "" for image in decoded],
            "error": [image[1] if isinstance(image, tuple) else "" for image in decoded],
        }

    def _decode(self, data: Data, limits: Limits) -> Picture | tuple[str, str]:
        if isinstance(data, tuple):
            return data
        try:
            if self.takes is None:
                if len(data) > limits.max_image_bytes:
                    raise ImageTooLarge(f"The image has more than {limits.max_image_bytes} bytes.")
                return {RAW: Pixels(hashlib.blake2b(data, digest_size=16).hexdigest(), 0, 0, data)}
            return images.read_all(data, limits, self.takes)
        except CaptionServeError as error:
            return reason_name(error), error.message


def _digest(picture: Picture) -> str:
    return next(iter(picture.values())).digest


def packed_picture(picture: Picture) -> bytes:
    """A picture as one cell of a table: a line of JSON, then the bytes of all sizes."""
    head = [[astuple(size), each.digest, each.height, each.width, len(each.data)] for size, each in picture.items()]
    return b"".join([json.dumps(head).encode(), b"\n", *(each.data for each in picture.values())])


def unpacked_picture(cell: bytes) -> Picture:
    head, _, data = cell.partition(b"\n")
    picture, start = {}, 0
    for size, digest, height, width, length in json.loads(head):
        picture[Size(*size)] = Pixels(digest, height, width, data[start : start + length])
        start += length
    return picture


def _packed(item: Input) -> bytes:
    return json.dumps([item.path, item.name, item.kept]).encode()


def unpacked(data: bytes) -> Input:
    """As much of an input as its row needs."""
    path, name, kept = json.loads(data)
    return Input(path, name, b"", kept=kept)
