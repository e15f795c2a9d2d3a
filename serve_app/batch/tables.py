"""CSV, Parquet and Arrow tables as sources: a column of paths and URLs, or one of bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from serve_app.batch.folder import filesystem
from serve_app.batch.inputs import Input, named
from serve_app.errors import InvalidOption

SUFFIXES = (".csv", ".tsv", ".parquet", ".arrow", ".feather")
COLUMNS = ("image", "image_path", "path", "file_path", "file_name", "file", "filename", "image_url", "url", "bytes")
"""Columns that are taken when none is named, the first that is there."""
BATCH_ROWS = 256


def inputs(file: str, column: str | None, keep: Sequence[str]) -> Iterator[Input]:
    """One input a row. Raises `InvalidOption` for a column that is not there or of no use."""
    base, scheme = _base(file)
    start = 0
    schema = _schema(file)
    name = _column(schema.names, column, file)
    if missing := [wanted for wanted in keep if wanted not in schema.names]:
        raise InvalidOption(f"{file}: there is no column {missing[0]!r}; it has {', '.join(schema.names)}.")
    wanted = list(dict.fromkeys([*_paths_of(schema, name), *keep]))
    for batch in _batches(file, wanted):
        kept = [json.dumps(row, default=str) for row in batch.select(list(keep)).to_pylist()] if keep else None
        for place, value in enumerate(_locators(batch, schema, name)):
            yield _input(file, value, start + place, base, scheme, kept[place] if kept else "")
        start += batch.num_rows


def read_cells(file: str, column: str | None, rows: Sequence[int]) -> Iterator[bytes | None]:
    """The bytes in those rows, which ascend."""
    schema = _schema(file)
    name = _column(schema.names, column, file)
    wanted, start = list(rows), 0
    for batch in _batches(file, [name], first=wanted[0]):
        while wanted and wanted[0] < start + batch.num_rows:
            cell = batch.column(name)[wanted.pop(0) - start].as_py()
            yield cell["bytes"] if isinstance(cell, dict) else cell
        start += batch.num_rows
        if not wanted:
            return


def _input(file: str, value: str | None, row: int, base: str, scheme: str, kept: str) -> Input:
    if value:
        item = named(value, base, scheme)
        return Input(item.path, item.name, item.file, kept=kept)
    stem = PurePosixPath(file).stem
    if value is None:
        return Input(f"{file}#{row}", f"{stem}/{row:08d}", file.encode(), row=row, kept=kept)
    return Input(f"{file}#{row}", f"{stem}/{row:08d}", file.encode(), kept=kept, error="empty: The cell is empty.")


def _locators(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> Iterator[str | None]:
    """For each row its path or URL, "" if the cell is empty, or None if the cell itself holds the image."""
    if _is_bytes(schema.field(name).type):
        yield from (None for _ in range(batch.num_rows))
        return
    for value in batch.column(name).to_pylist():
        yield str(value) if value else ""


def _paths_of(schema: pa.Schema, name: str) -> list[str]:
    """Columns that the index needs: none of bytes."""
    if _is_bytes(schema.field(name).type):
        return [first] if (first := next((f.name for f in schema if not _is_bytes(f.type)), None)) else [name]
    return [name]


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):  # how the datasets library stores images: {bytes, path}
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _column(names: Sequence[str], column: str | None, file: str) -> str:
    if column is not None:
        if column in names:
            return column
        raise InvalidOption(f"{file}: there is no column {column!r}; it has {', '.join(names)}.")
    for known in COLUMNS:
        if known in names:
            return known
    raise InvalidOption(f"{file}: which column holds the images? Name it with --column; it has {', '.join(names)}.")


def _base(file: str) -> tuple[str, str]:
    """The folder that relative paths start at, and its scheme with `://`; no scheme for local tables."""
    scheme, separator, rest = file.rpartition("://")
    return rest.rpartition("/")[0], scheme + separator


def _schema(file: str) -> pa.Schema:
    with _open(file) as stream:
        try:
            match PurePosixPath(file).suffix.lower():
                case ".parquet":
                    return pq.read_schema(stream)
                case ".csv" | ".tsv":
                    with _csv(file, stream) as reader:
                        return reader.schema
                case _:
                    return _arrow(stream).schema
        except pa.ArrowException as error:
            raise InvalidOption(f"{file}: the table cannot be read: {str(error).splitlines()[0]}.") from error


def _batches(file: str, columns: list[str], first: int = 0) -> Iterator[Any]:
    """Record batches with these columns; those before row `first` may come with nulls in place of their values."""
    with _open(file) as stream:
        match PurePosixPath(file).suffix.lower():
            case ".parquet":
                yield from _parquet(pq.ParquetFile(stream), columns, first)
            case ".csv" | ".tsv":
                with _csv(file, stream) as reader:
                    for batch in reader:
                        yield batch.select(columns)
            case _:
                reader = _arrow(stream)
                for batch in reader if isinstance(reader, pa.RecordBatchStreamReader) else _pieces(reader):
                    yield batch.select(columns)


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


def _csv(file: str, stream: IO[bytes]) -> Any:
    """All columns as text: a number may be a name with zeros in front."""
    parsed = pa.csv.ParseOptions(delimiter="\t" if file.lower().endswith(".tsv") else ",", newlines_in_values=True)
    with pa.csv.open_csv(stream, parse_options=parsed) as reader:
        types = dict.fromkeys(reader.schema.names, pa.string())
    stream = _open(file)
    return pa.csv.open_csv(stream, parse_options=parsed, convert_options=pa.csv.ConvertOptions(column_types=types))


def _open(file: str) -> Any:
    storage, path = filesystem(file)
    return storage.open(path, "rb")
