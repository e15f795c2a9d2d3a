"""One input of a job: where an image's bytes are, and what its row is called."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("name", pa.string()),
        ("file", pa.binary()),
        ("start", pa.int64()),
        ("size", pa.int64()),
        ("row", pa.int64()),
        ("kept", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Input:
    """`path` names the row. The bytes are those of `file`: all, `size` from `start` (a tar's member), or a table's
    cell in `row`. `file` is a local path as bytes, or a URL in UTF-8."""

    path: str
    name: str
    """Relative path, from which sidecars and WebDataset take theirs."""
    file: bytes
    start: int = 0
    size: int = -1
    row: int = -1
    kept: str = ""
    """JSON of the table columns that are copied."""
    error: str = ""
    """`reason: sentence` if the source could not even list it."""

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def location(self) -> str | bytes:
        """The URL, or the local path as bytes, which also names that are no UTF-8 are."""
        return self.file.decode() if b"://" in self.file else self.file

    def row_of(self) -> dict[str, Any]:
        return asdict(self)


def local_input(file: bytes, root: bytes, shown_root: str) -> Input:
    """A local file below `root`; bytes of its name that are no UTF-8 are shown as \\xNN."""
    relative = shown(os.path.relpath(file, root))
    return Input(path=str(Path(shown_root) / relative) if shown_root else relative, name=relative, file=file)


def named(name: str, base: str, scheme: str = "") -> Input:
    """The input that a list or table names; relative names start at `base`."""
    if "://" in name:
        return Input(name, name.partition("://")[2].partition("?")[0], name.encode())
    full = name if name.startswith("/") else f"{base}/{name}"
    file = (scheme + full).encode() if scheme else os.fsencode(full)
    clean = shown(os.fsencode(name))
    return Input(clean, clean.lstrip("/").replace("../", ""), file)


def shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def inputs_of(table: pa.Table) -> Iterator[Input]:
    """The inputs that a stored part of the index holds."""
    for row in table.to_pylist():
        yield Input(**row)
