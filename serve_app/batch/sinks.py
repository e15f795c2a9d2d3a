"""Writing a finished shard: one file that appears whole, or a text file for each image."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from serve_app.batch import rows as rows_
from serve_app.batch.folder import Folder, reason_of
from serve_app.batch.inputs import Input
from serve_app.batch.intake import read_all
from serve_app.batch.names import OWN_FOLDER, shown
from serve_app.batch.rows import Row
from serve_app.batch.settings import JobSettings, SinkKind
from serve_app.errors import InvalidOption

SUFFIXES: Mapping[SinkKind, str] = {
    "parquet": ".parquet",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "webdataset": ".tar",
    "sidecar": "",
}


def part_name(kind: SinkKind, shard: int) -> str:
    return f"part-{shard:05d}{SUFFIXES[kind]}"


MOST_CELL_CHARACTERS = 100_000_000

Refused = dict[int, tuple[str, str]]
"""Rows that could not be written, by place: a word to count by and a sentence."""

_OF_THE_NAME = frozenset(
    (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST)
)
"""Errors of a storage that are one name's and not the storage's."""


def write(
    folder: Folder,
    shard: int,
    inputs: Sequence[Input],
    rows: Sequence[Row],
    settings: JobSettings,
    *,
    again: bool = False,
) -> Refused:
    """Writes a shard's rows, which are in the order of its inputs. Raises `OSError`.

    Files that exist are kept, unless the shard is written `again`: then those that the job wrote are replaced.
    """
    if settings.sink == "sidecar":
        before = read(folder, shard, settings, {}) if again else None
        refused = _sidecars(folder, inputs, rows, settings, before)
        written = [
            rows_.failed(inputs[place], *refused[place], settings) if place in refused else row
            for place, row in enumerate(rows)
        ]
        with folder.writer(_rows_name(shard)) as output:
            _parquet(output, inputs, written, settings)
        return refused
    name = part_name(settings.sink, shard)
    if settings.sink == "webdataset":  # written always: only that says what a tar lacks
        with contextlib.ExitStack() as opened, folder.writer(name) as output:
            old = opened.enter_context(tarfile.open(fileobj=opened.enter_context(folder.open(name)))) if again else None
            return _webdataset(output, inputs, rows, settings, old)
    if again or not folder.exists(name):
        with folder.writer(name) as output:
            _WRITERS[settings.sink](output, inputs, rows, settings)
    return {}


def read(folder: Folder, shard: int, settings: JobSettings, failed: Mapping[int, Row]) -> Sequence[Row]:
    """The rows of a shard that was written; `failed` are those that a tar leaves out.

    Raises `FileNotFoundError`, and `InvalidOption` if a file is not as it was written.
    """
    name = _rows_name(shard) if settings.sink == "sidecar" else part_name(settings.sink, shard)
    try:
        with folder.open(name) as stream:
            return _READERS[settings.sink](stream, settings, failed)
    except (ValueError, KeyError, pa.ArrowException, tarfile.TarError) as error:
        raise InvalidOption(f"{folder.url}/{name} is not as this job wrote it.") from error


def edited(folder: Folder, inputs: Sequence[Input], rows: Sequence[Row], settings: JobSettings) -> set[int]:
    """Places whose sidecar is there and is not as the job wrote it."""
    if settings.sink != "sidecar" or settings.overwrite:
        return set()
    return {
        place
        for place, (item, row) in enumerate(zip(inputs, rows, strict=True))
        if row["caption"] is not None
        and folder.exists(item.sidecar)
        and folder.read(item.sidecar) != str(row["caption"]).encode()
    }


def remove_sidecars(folder: Folder, shard: int, inputs: Sequence[Input], settings: JobSettings) -> None:
    """Removes the sidecars of a shard that are as the job wrote them."""
    for item, row in zip(inputs, read(folder, shard, settings, {}), strict=True):
        data = str(row["caption"]).encode()
        if row["caption"] is not None and folder.exists(item.sidecar) and folder.read(item.sidecar) == data:
            folder.remove(item.sidecar)


def _rows_name(shard: int) -> str:
    """Sidecars hold captions alone; their rows lie here."""
    return f"{OWN_FOLDER}/rows/{shard:05d}.parquet"


def _sidecars(
    folder: Folder, inputs: Sequence[Input], rows: Sequence[Row], settings: JobSettings, before: Sequence[Row] | None
) -> Refused:
    refused: Refused = {}
    for place, (item, row) in enumerate(zip(inputs, rows, strict=True)):
        if row["caption"] is None or (before is not None and row == before[place]):
            continue
        name = shown(item.sidecar)[:300]
        replaced = str(before[place]["caption"]).encode() if before is not None else None
        try:
            if problem := _sidecar(folder, item.sidecar, str(row["caption"]).encode(), replaced, settings):
                refused[place] = problem[0], f"{name} {problem[1]}."
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in _OF_THE_NAME:
                raise
            refused[place] = "unwritable_name", f"{name} cannot be written: {reason_of(error)}."
    return refused


def _sidecar(
    folder: Folder, name: str, data: bytes, replaced: bytes | None, settings: JobSettings
) -> tuple[str, str] | None:
    """Writes the file, or says why not. Raises `OSError` and `ValueError`."""
    if settings.source_kind != "images" and not folder.holds(name):  # a folder's own links may lead where they like
        return "unsafe_name", "leads out of the output by a link"
    if not settings.overwrite and folder.exists(name) and folder.read(name) not in (data, replaced):
        return "sidecar_exists", "was written by somebody else meanwhile"
    folder.write(name, data)
    return None


def _parquet(output: IO[bytes], _: Sequence[Input], rows: Sequence[Row], settings: JobSettings) -> None:
    pq.write_table(rows_.table(rows, settings), output, compression="zstd")


def _jsonl(output: IO[bytes], _: Sequence[Input], rows: Sequence[Row], __: JobSettings) -> None:
    for row in rows:
        output.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _csv(output: IO[bytes], _: Sequence[Input], rows: Sequence[Row], settings: JobSettings) -> None:
    text = io.TextIOWrapper(output, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(rows_.schema(settings).names)
    for row in rows:
        writer.writerow(
            json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value for value in row.values()
        )
    text.detach()


def _webdataset(
    output: IO[bytes],
    inputs: Sequence[Input],
    rows: Sequence[Row],
    settings: JobSettings,
    old: tarfile.TarFile | None = None,
) -> Refused:
    """Captioned images only, with their bytes as they are; every row's JSON lies beside its image.

    The bytes of an image that is gone come from the `old` tar of the shard, if there is one.
    """
    refused: Refused = {}
    had = {} if old is None else {_place(member.name): member for member in old if _is_image(member.name)}
    taken = [place for place, row in enumerate(rows) if row["caption"] is not None]
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for place, data in zip(taken, read_all([inputs[place] for place in taken], settings), strict=True):
            if not isinstance(data, bytes) and old is not None and place in had:
                kept = old.extractfile(had[place])
                data = kept.read() if kept is not None else data
            if isinstance(data, bytes):
                item, row = inputs[place], rows[place]
                key = f"{_safe(item.stem)}-{place:06d}"
                suffix = _safe(PurePosixPath(item.name).suffix.lower().lstrip(".")) or "img"
                _add(tar, f"{key}.{suffix}", data)
                _add(tar, f"{key}.txt", str(row["caption"]).encode())
                _add(tar, f"{key}.json", json.dumps(row, ensure_ascii=False).encode())
            else:
                refused[place] = data[0], f"The image cannot be read a second time: {data[1]}"
    return refused


def _is_image(name: str) -> bool:
    return not name.endswith((".txt", ".json"))


def _place(name: str) -> int:
    """Of the row whose member has this name."""
    return int(name.rsplit(".", 1)[0].rpartition("-")[2])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _safe(stem: str) -> str:
    """A WebDataset key ends at the first dot and knows no folders."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in stem)[:80]


_WRITERS: Mapping[SinkKind, Callable[[IO[bytes], Sequence[Input], Sequence[Row], JobSettings], None]] = {
    "parquet": _parquet,
    "jsonl": _jsonl,
    "csv": _csv,
}


def _from_parquet(stream: IO[bytes], _: JobSettings, __: Mapping[int, Row]) -> list[Row]:
    return rows_.of_table(pq.read_table(stream))


def _from_jsonl(stream: IO[bytes], _: JobSettings, __: Mapping[int, Row]) -> list[Row]:
    return [json.loads(line) for line in stream]


def _from_csv(stream: IO[bytes], settings: JobSettings, _: Mapping[int, Row]) -> list[Row]:
    csv.field_size_limit(MOST_CELL_CHARACTERS)
    text = io.StringIO(stream.read().decode(), newline="")
    return [rows_.of_cells(cells, settings) for cells in csv.DictReader(text)]


def _from_webdataset(stream: IO[bytes], _: JobSettings, failed: Mapping[int, Row]) -> list[Row]:
    found = dict(failed)
    with tarfile.open(fileobj=stream) as tar:
        for member in tar:
            if member.name.endswith(".json") and (data := tar.extractfile(member)) is not None:
                found[_place(member.name)] = json.load(data)
    return [found[place] for place in range(len(found))]


_READERS: Mapping[SinkKind, Callable[[IO[bytes], JobSettings, Mapping[int, Row]], list[Row]]] = {
    "parquet": _from_parquet,
    "jsonl": _from_jsonl,
    "csv": _from_csv,
    "webdataset": _from_webdataset,
    "sidecar": _from_parquet,
}
