"""Text sources: their encoding, and the records of CSV, TSV and JSON Lines files."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TextIO

from serve_app.batch.folder import filesystem
from serve_app.errors import InvalidOption

MAX_CELL_CHARACTERS = 100_000_000
"""A longer cell is taken for one whose quotation mark is not closed."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 4096

csv.field_size_limit(MAX_CELL_CHARACTERS)


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a table: its cells by column, or a sentence on why there are none."""

    cells: Mapping[str, Any]
    error: str = ""


def opened(file: str, newline: str | None = None) -> TextIO:
    """The text of a file: in UTF-8, or as its byte order mark says. Bytes that are none of it become surrogates.

    Raises `InvalidOption` if there is no such file or it is UTF-16 without a mark.
    """
    storage, path = filesystem(file)
    try:
        stream = storage.open(path, "rb")
    except FileNotFoundError:
        raise InvalidOption(f"There is no file {file!r}.") from None
    start = stream.read(_LOOKED_AT)
    stream.seek(0)
    encoding = next((encoding for mark, encoding in _MARKS if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and start.count(0) > len(start) // 4:
        stream.close()
        raise InvalidOption(f"{file}: this looks like UTF-16 without a byte order mark; save it as UTF-8.")
    return io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)


def is_text(file: str) -> bool:
    """Whether the table is one that this module reads."""
    return _suffix(file) in (".csv", ".tsv", ".jsonl")


def columns(file: str) -> list[str]:
    """Names of the columns: of CSV and TSV in the first line, of JSON Lines in the first object."""
    for record in _records(file):
        if record.error:
            raise InvalidOption(f"{file}: the first row cannot be read: {record.error}")
        return list(record.cells)
    return []


def records(file: str) -> Iterator[Record]:
    """All rows; blank lines are none. CSV as in RFC 4180, a line whose quotation marks do not fit is one row with an
    error. In TSV a quotation mark is a character like others (IANA's text/tab-separated-values)."""
    found = _records(file)
    if _suffix(file) != ".jsonl":
        next(found, None)  # the header
    yield from found


def _records(file: str) -> Iterator[Record]:
    """With CSV and TSV the header comes first, as a record of itself."""
    try:
        match _suffix(file):
            case ".jsonl":
                with opened(file) as lines:
                    yield from _json_lines(lines)
            case ".tsv":
                with opened(file, newline="") as lines:
                    yield from _rows(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            case _:
                with opened(file, newline="") as lines:
                    yield from _rows(lines, strict=True)
    except UnicodeError as error:  # of UTF-16 and UTF-32; in UTF-8 a wrong byte stays a byte
        raise InvalidOption(f"{file}: the text is not what its byte order mark says: {error}.") from error


def _json_lines(lines: TextIO) -> Iterator[Record]:
    for line in lines:
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError):
            yield Record({}, "The line is not valid JSON.")
            continue
        yield Record(cells) if isinstance(cells, dict) else Record({}, "The line is no JSON object.")


def _rows(text: TextIO, **dialect: Any) -> Iterator[Record]:
    lines = _Lines(text)
    reader = csv.reader(lines, **dialect)
    places: dict[str, int] = {}
    width = 0
    while True:
        lines.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            lines.give_back()
            yield Record({}, "A quotation mark is not closed, or text follows a closed one.")
            continue
        if not cells:
            continue
        if not width:
            width = len(cells)
            places = {name: place for place, name in reversed([*enumerate(cells)])}  # of two of one name the first
            places = dict(sorted(places.items(), key=lambda item: item[1]))
        if len(cells) != width:
            yield Record({}, f"The row has {len(cells)} cells and the header {width}.")
        else:
            yield Record({name: cells[place] for name, place in places.items()})


class _Lines:
    """Lines that can be given back: those that a wrong quotation mark has swallowed are rows of their own."""

    def __init__(self, lines: TextIO) -> None:
        self.taken: list[str] = []
        self._lines = lines
        self._again: deque[str] = deque()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """All that were taken but the first."""
        self._again.extendleft(reversed(self.taken[1:]))


def _suffix(file: str) -> str:
    return PurePosixPath(file).suffix.lower()
