"""A directory, local or in a bucket, whose files appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from serve_app.errors import InvalidOption


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a path or URL, and the path in it. Raises `InvalidOption` for one that is not installed."""
    try:
        found, path = url_to_fs(url)
    except ImportError as error:
        raise InvalidOption(f"{url}: {str(error).rstrip('.')}.") from error
    except ValueError as error:
        raise InvalidOption(f"{url}: there is no such kind of storage ({error}).") from error
    return found, str(path)


class Folder:
    """Files below `url`. Names are relative and use slashes. Errors of the storage are `OSError`s."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = filesystem(url)
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.__init__(url)  # type: ignore[misc]

    def path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def holds(self, name: str) -> bool:
        """Whether the file lies below the folder, links followed. A bucket has no links."""
        if not self.is_local:
            return True
        root = os.path.realpath(self._root)
        return os.path.commonpath((root, os.path.realpath(os.path.dirname(self.path(name))))) == root

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self.path(name)))

    def names(self, folder: str = "") -> list[str]:
        """Names of the files directly in `folder`, sorted; none if it doesn't exist."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self.path(folder) if folder else self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[1] for path in found)

    def read(self, name: str) -> bytes:
        return bytes(self._fs.cat_file(self.path(name)))

    def open(self, name: str) -> IO[bytes]:
        """For reading, with seek."""
        opened: IO[bytes] = self._fs.open(self.path(name), "rb")
        return opened

    def write(self, name: str, data: bytes) -> None:
        with self.writer(name) as output:
            output.write(data)

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        """A file that is there, whole, after the block, and not at all when the block raises."""
        target = self.path(name)
        if self.is_local:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
        where = str(Path(target).parent) if self.is_local else None
        descriptor, temporary = tempfile.mkstemp(prefix=".part-", dir=where)
        try:
            with os.fdopen(descriptor, "wb") as output:
                yield output
                output.flush()
                os.fsync(output.fileno())
            if self.is_local:
                os.chmod(temporary, 0o666 & ~_UMASK)
                os.replace(temporary, target)
            else:
                self._fs.put_file(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self.path(name))

    def remove_folder(self, name: str) -> None:
        """Removes a folder and everything in it."""
        if self.is_local:
            shutil.rmtree(self.path(name), ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(self.path(name), recursive=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


_UMASK = _umask()


def read_range(url: str | bytes, start: int = 0, size: int = -1) -> bytes:
    """Bytes of a file; all of them with `size` < 0. A `bytes` path is a local one. Raises `OSError`."""
    if isinstance(url, bytes):
        with open(url, "rb") as file:
            file.seek(start)
            return file.read(size)
    found, path = filesystem(url)
    return bytes(found.cat_file(path) if size < 0 else found.cat_file(path, start, start + size))


def reason_of(error: Any) -> str:
    """What an `OSError` says, without its number."""
    return str(getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).rstrip(".")
