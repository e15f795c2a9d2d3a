"""Names of inputs as paths below the output: none leaves it, and no two of a job are the same.

A name is text as `os.fsdecode` makes it: bytes that are no UTF-8 are lone surrogates, which `os.fsencode` turns back.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

OWN_FOLDER = "_job"
"""Where a job keeps its state, below its output; never a source, and no output's name begins with it."""

_DRIVE = re.compile(r"[A-Za-z]:")


def shown(name: str) -> str:
    """The name as text for people, JSON and tables: bytes that are no UTF-8 as \\xNN."""
    data = as_bytes(name)
    return (
        name.encode("utf-8", "backslashreplace").decode() if data is None else data.decode("utf-8", "backslashreplace")
    )


def as_bytes(name: str) -> bytes | None:
    """The bytes of a name, or None for text that stands for none, such as half a surrogate pair."""
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        return None


def below(name: str) -> str | None:
    """The name as a relative path that stays below whatever it is joined to; None if it does not stay there.

    A slash in front is dropped. `..` may take back what stood before it and nothing else; parts in Windows' spelling
    (a drive, `..` between backslashes) and NUL are refused.
    """
    if "\0" in name or _DRIVE.match(name) or as_bytes(name) is None:
        return None
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif ".." in part.split("\\"):
            return None
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) if parts and parts[0] != OWN_FOLDER else None


def without_climbing(name: str) -> str:
    """The path of a local file without the folders that it climbs to: `../photos/a.jpg` becomes `photos/a.jpg`."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def sidecars(name: str, suffix: str) -> Iterator[str]:
    """Names for the sidecar of `a.png`, the usual one first: `a.txt`, `a.png.txt`, `a.png.2.txt`, …"""
    yield str(PurePosixPath(name).with_suffix("")) + suffix
    yield name + suffix
    number = 2
    while True:
        yield f"{name}.{number}{suffix}"
        number += 1


class Names:
    """The names that are taken, on disk: a job may have millions."""

    def __init__(self) -> None:
        self._taken = sqlite3.connect("", isolation_level=None)  # a temporary file that SQLite removes itself
        self._taken.execute("PRAGMA journal_mode=OFF")
        self._taken.execute("PRAGMA synchronous=OFF")
        self._taken.execute("CREATE TABLE taken (name BLOB PRIMARY KEY) WITHOUT ROWID")

    def take(self, candidates: Iterable[str]) -> str:
        """The first candidate that is free, which is taken then."""
        for name in candidates:
            if self.add(os.fsencode(name)):
                return name
        raise AssertionError("there is no end of names")

    def add(self, name: bytes) -> bool:
        """Takes a name, and says whether it was free."""
        return bool(self._taken.execute("INSERT OR IGNORE INTO taken VALUES (?)", (name,)).rowcount)

    def close(self) -> None:
        self._taken.close()
