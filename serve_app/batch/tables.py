"""CSV, TSV, JSON Lines, Parquet and Arrow tables as sources: a column of paths, URLs, bytes or base64."""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from serve_app.batch import texts
from serve_app.batch.folder import filesystem, reason_of
from serve_app.batch.inputs import Input, named
from serve_app.batch.names import shown
from serve_app.errors import InvalidOption, InvalidRequest
from serve_app.service.sources import decode

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".arrow", ".feather")
COLUMNS = ("image", "image_path", "path", "file_path", "file_name", "file", "filename", "image_url", "url", "bytes")
"""Columns that are taken when none is named, the first that is there and can be used."""
BATCH_ROWS = 256

Shape = Literal["text", "bytes", "struct"]
"""What a column holds in each row: a path, a URL or base64; bytes; or {bytes, path}, as `datasets` writes images."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_LEAST_BASE64 = 64
MOST_NAMED = 40
"""Columns that an error lists."""


def inputs(file: str, column: str | None, keep: Sequence[str]) -> Iterator[Input]:
    """One input a row. Raises `InvalidOption` for a table that cannot be read, and for a column that is not there or
    holds no images."""
    with _readable(file):
        if texts.is_text(file):
            yield from _of_text(file, column, keep)
        else:
            yield from _of_arrow(file, column, keep)


def read_cells(file: str, column: str | None, rows: Sequence[int]) -> Iterator[bytes | Input | None]:
    """The bytes in those rows, which ascend, or the input that the cell names."""
    base, scheme = _base(file)
    for cell in _cells(file, column, rows):
        if isinstance(cell, Mapping):
            data, path = cell.get("bytes"), cell.get("path")
            yield data or (named(_text(path), base, scheme) if path else None)
        elif isinstance(cell, str):
            yield _decoded(cell)
        else:
            yield cell


def _decoded(cell: str) -> bytes | Input:
    try:
        return decode(cell)
    except InvalidRequest as error:
        return Input("", "unnamed", b"", error=f"invalid_image: {error.message}")


def _of_text(file: str, column: str | None, keep: Sequence[str]) -> Iterator[Input]:
    names = texts.columns(file)
    name = _column(dict.fromkeys(names, "text"), column, file)
    _check_kept(keep, names, file)
    for row, record in enumerate(texts.records(file)):
        if record.error:
            yield _empty(file, row, f"unreadable: {record.error}", "")
            continue
        value = record.cells.get(name)
        kept = _kept({each: record.cells.get(each) for each in keep})
        if value is not None and not isinstance(value, str):
            yield _empty(file, row, f"invalid_name: The cell holds {type(value).__name__}, no path or URL.", kept)
        else:
            yield _input(file, value or "", row, kept)


def _of_arrow(file: str, column: str | None, keep: Sequence[str]) -> Iterator[Input]:
    start = 0
    schema = _schema(file)
    shapes = {field.name: shape_of(field.type) for field in schema}
    name = _column(shapes, column, file, {field.name: field.type for field in schema})
    _check_kept(keep, schema.names, file)
    if wrong := [each for each in keep if _has_bytes(schema.field(each).type)]:
        raise InvalidOption(f"{file}: the column {wrong[0]!r} holds bytes, which cannot be copied as text.")
    wanted = list(dict.fromkeys([*_listed(schema, name, shapes), *keep]))
    for batch in _batches(file, wanted):
        kept = [_kept(row) for row in batch.select(list(keep)).to_pylist()] if keep else [""] * batch.num_rows
        locators = _texts(batch.column(name)) if shapes[name] == "text" else [None] * batch.num_rows
        for place, value in enumerate(locators):
            yield _input(file, value, start + place, kept[place])
        start += batch.num_rows


def _input(file: str, value: str | None, row: int, kept: str) -> Input:
    """`value`: a path, a URL or base64; "" for an empty cell, None for one whose bytes are read later."""
    base, scheme = _base(file)
    if value == "":
        return _empty(file, row, "empty: The cell is empty.", kept)
    if value is None or is_inline(value):
        return Input(_label(file, row), _name(file, row), file.encode(), row=row, kept=kept)
    item = named(value, base, scheme)
    return Input(item.path, item.name, item.file, kept=kept, error=item.error)


def _empty(file: str, row: int, error: str, kept: str) -> Input:
    return Input(_label(file, row), _name(file, row), file.encode(), kept=kept, error=error)


def _label(file: str, row: int) -> str:
    return f"{shown(file)}#{row}"


def _name(file: str, row: int) -> str:
    return f"{PurePosixPath(file).stem}/{row:08d}"


def is_inline(value: str) -> bool:
    """Whether a text is an image itself: a data URI, or base64 that begins as one of an image does."""
    if value[:5].lower() == "data:":
        return True
    if len(value) < _LEAST_BASE64:
        return False
    try:
        return base64.b64decode(value[:_LEAST_BASE64], validate=True).startswith(_MAGIC)
    except (binascii.Error, ValueError):
        return False


def _kept(row: Mapping[str, Any]) -> str:
    return json.dumps(
        {name: shown(value) if isinstance(value, str) else value for name, value in row.items()}, default=str
    )


def _texts(array: pa.Array) -> list[str]:
    """The cells as text, "" for empty ones; bytes that are no UTF-8 become surrogates."""
    try:
        values = array.to_pylist()
    except UnicodeDecodeError:
        values = array.cast(pa.binary()).to_pylist()
    return [_text(value) for value in values]


def _text(value: str | bytes | None) -> str:
    return os.fsdecode(value) if value else ""


def _cells(file: str, column: str | None, rows: Sequence[int]) -> Iterator[Any]:
    wanted, start = list(rows), 0
    if texts.is_text(file):
        name = _column(dict.fromkeys(texts.columns(file), "text"), column, file)
        for row, record in enumerate(texts.records(file)):
            if row == wanted[0]:
                yield record.cells.get(name)
                wanted.pop(0)
            if not wanted:
                return
        return
    schema = _schema(file)
    shapes = {field.name: shape_of(field.type) for field in schema}
    name = _column(shapes, column, file, {field.name: field.type for field in schema})
    for batch in _batches(file, [name], first=wanted[0]):
        while wanted and wanted[0] < start + batch.num_rows:
            yield batch.column(name)[wanted.pop(0) - start].as_py()
        start += batch.num_rows
        if not wanted:
            return


def shape_of(kind: pa.DataType) -> Shape | None:
    """What a column of this type holds; None if no image can be in it."""
    if pa.types.is_dictionary(kind):
        return shape_of(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return shape_of(kind.storage_type)
    if _is_bytes(kind):
        return "bytes"
    if pa.types.is_struct(kind):
        parts = {kind.field(place).name: shape_of(kind.field(place).type) for place in range(kind.num_fields)}
        return "struct" if parts.get("bytes") == "bytes" or parts.get("path") == "text" else None
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return "text" if any(check(kind) for check in is_text) else None


def _is_bytes(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _has_bytes(kind: pa.DataType) -> bool:
    return _is_bytes(kind) or any(_has_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _listed(schema: pa.Schema, name: str, shapes: Mapping[str, Shape | None]) -> list[str]:
    """Columns that the index reads: none with bytes, if another one says how many rows there are."""
    if shapes[name] == "text":
        return [name]
    return [next((field.name for field in schema if not _has_bytes(field.type)), name)]


def _column(
    shapes: Mapping[str, Any], column: str | None, file: str, types: Mapping[str, pa.DataType] | None = None
) -> str:
    known = [name for name in ([column] if column is not None else COLUMNS) if name in shapes]
    if usable := [name for name in known if shapes[name] is not None]:
        return usable[0]
    if known and types is not None:
        raise InvalidOption(
            f"{file}: the column {known[0]!r} holds {types[known[0]]}; an image is a path, a URL, bytes or base64, one "
            "in each row."
        )
    has = _listing(shapes)
    if column is not None:
        raise InvalidOption(f"{file}: there is no column {column!r}; it has {has}.")
    raise InvalidOption(f"{file}: which column holds the images? Name it with --column; it has {has}.")


def _listing(names: Iterable[str]) -> str:
    """Names of columns in one line."""
    first = [" ".join(shown(name).split())[:60] for name in itertools.islice(names, MOST_NAMED + 1)]
    return ", ".join(first[:MOST_NAMED]) + (", …" if len(first) > MOST_NAMED else "")


def _check_kept(keep: Sequence[str], names: Sequence[str], file: str) -> None:
    if missing := [wanted for wanted in keep if wanted not in names]:
        raise InvalidOption(f"{file}: there is no column {missing[0]!r}; it has {_listing(names)}.")


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """Raises `InvalidOption` for a table that is broken; errors of the storage stay what they are."""
    try:
        yield
    except (InvalidOption, GeneratorExit):
        raise
    except Exception as error:  # Arrow raises many kinds for broken files, OSErrors without a number among them
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidOption(f"{file}: the table cannot be read: {reason_of(error).splitlines()[0][:200]}.") from error


def _base(file: str) -> tuple[str, str]:
    """The folder that relative paths start at, and its scheme with `://`; no scheme for local tables."""
    scheme, separator, rest = file.rpartition("://")
    return rest.rpartition("/")[0], scheme + separator


def _schema(file: str) -> pa.Schema:
    with _open(file) as stream:
        return pq.read_schema(stream) if _is_parquet(file) else _arrow(stream).schema


def _batches(file: str, columns: list[str], first: int = 0) -> Iterator[pa.RecordBatch]:
    """Record batches with these columns; those before row `first` may come with nulls in place of their values.

    Raises `pa.ArrowInvalid` for broken ones, whose cells would end the process.
    """
    with _open(file) as stream:
        if _is_parquet(file):
            batches = _parquet(pq.ParquetFile(stream), columns, first)
        else:
            reader = _arrow(stream)
            batches = reader if isinstance(reader, pa.RecordBatchStreamReader) else _pieces(reader)
        for batch in batches:
            chosen = batch.select(columns)
            for array in chosen.columns:
                _as_binary(array).validate(full=True)
            yield chosen


def _as_binary(array: pa.Array) -> pa.Array:
    """A column of text without the demand that it is UTF-8."""
    wide = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    return array.view(wide[array.type]) if array.type in wide else array


def _is_parquet(file: str) -> bool:
    return PurePosixPath(file).suffix.lower() == ".parquet"


def _parquet(file: pq.ParquetFile, columns: list[str], first: int) -> Iterator[pa.RecordBatch]:
    start, groups = 0, list(range(file.num_row_groups))
    while groups and start + file.metadata.row_group(groups[0]).num_rows <= first:
        rows = file.metadata.row_group(groups.pop(0)).num_rows
        start += rows
        yield pa.record_batch({name: pa.nulls(rows) for name in columns})
    if groups:
        yield from file.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns)


def _pieces(reader: Any) -> Iterator[pa.RecordBatch]:
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _arrow(stream: IO[bytes]) -> Any:
    """Both of Arrow's formats: the file one, and the stream one that the datasets library writes."""
    try:
        return pa.ipc.open_file(stream)
    except pa.ArrowInvalid:
        stream.seek(0)
        return pa.ipc.open_stream(stream)


def _open(file: str) -> Any:
    storage, path = filesystem(file)
    return storage.open(path, "rb")
