"""One input of a job: where an image's bytes are, and what its row is called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote_from_bytes

import pyarrow as pa

from serve_app.batch.names import as_bytes, shown, without_climbing

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("name", pa.binary()),
        ("file", pa.binary()),
        ("start", pa.int64()),
        ("size", pa.int64()),
        ("row", pa.int64()),
        ("kept", pa.string()),
        ("error", pa.string()),
        ("sidecar", pa.binary()),
    ]
)
_NAMES = ("name", "sidecar")
_URL_BYTES = "".join(map(chr, range(0x21, 0x7F)))
"""What stays as it is in a URL whose other bytes have to be escaped."""


@dataclass(frozen=True, slots=True)
class Input:
    """`path` names the row. The bytes are those of `file`: all, `size` from `start` (a tar's member), or a table's
    cell in `row`. `file` is a local path as bytes, or a URL in UTF-8."""

    path: str
    name: str
    """Relative path as in `serve_app.batch.names`, from which outputs take theirs."""
    file: bytes
    start: int = 0
    size: int = -1
    row: int = -1
    kept: str = ""
    """JSON of the table columns that are copied."""
    error: str = ""
    """`reason: sentence` if the source could not even list it."""
    sidecar: str = ""
    """Name of its text file, which no other input of the job has."""

    @property
    def key(self) -> bytes:
        """The same for one input of two listings."""
        return b"\0".join((self.file, b"%d" % self.start, b"%d" % self.row, self.path.encode()))

    @property
    def stem(self) -> str:
        return shown(PurePosixPath(self.name).stem)

    @property
    def location(self) -> str | bytes:
        """The URL, or the local path as bytes, which also names that are no UTF-8 are."""
        return self.file.decode() if b"://" in self.file else self.file

    def row_of(self) -> dict[str, Any]:
        return {**asdict(self), **{name: os.fsencode(getattr(self, name)) for name in _NAMES}}


def local_input(file: bytes, root: bytes, shown_root: str) -> Input:
    """A local file below `root`."""
    relative = os.fsdecode(os.path.relpath(file, root))
    path = shown(relative)
    return Input(path=str(Path(shown_root) / path) if shown_root else path, name=relative, file=file)


def named(name: str, base: str, scheme: str = "") -> Input:
    """The input that a list or table names; relative names start at `base`."""
    data = as_bytes(name)
    if data is None:
        return Input(shown(name), "unnamed", b"", error="invalid_name: The name is not valid Unicode.")
    if "://" in name:
        below_host = name.partition("://")[2].partition("?")[0].partition("#")[0]
        url = name if shown(name) == name else quote_from_bytes(data, safe=_URL_BYTES)
        return Input(shown(name), below_host or "unnamed", url.encode())
    full = name if name.startswith("/") else f"{base}/{name}"
    relative = without_climbing(name) or "unnamed"
    if scheme and shown(name) != name:
        return Input(shown(name), relative, b"", error="invalid_name: Names in this storage are UTF-8.")
    return Input(shown(name), relative, (scheme + full).encode() if scheme else os.fsencode(full))


def inputs_of(table: pa.Table) -> Iterator[Input]:
    """The inputs that a stored part of the index holds."""
    for row in table.to_pylist():
        yield Input(**{**row, **{name: os.fsdecode(row[name]) for name in _NAMES}})
