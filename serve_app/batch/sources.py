"""From what a user names as a source to its inputs, in an order that is the same every time."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from fsspec.implementations.local import LocalFileSystem

from serve_app.batch import tables, tars, texts
from serve_app.batch.folder import filesystem, reason_of
from serve_app.batch.inputs import Input, local_input, named
from serve_app.batch.names import OWN_FOLDER, shown, without_climbing
from serve_app.batch.settings import JobSettings, SourceKind
from serve_app.errors import InvalidOption

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
LIST_SUFFIXES = (".txt", ".lst", ".list")
SYSTEM_FOLDERS = frozenset(
    (b"__MACOSX", b"@eaDir", b"$RECYCLE.BIN", b"System Volume Information", b"lost+found", b".git")
)
"""Folders that systems make: archives of macOS, NAS thumbnails, bins. What they hold is no image of the user's."""
_MAGIC = frozenset("*?[")


@dataclass
class Found:
    """What was met on the way besides inputs."""

    other: Counter[str] = field(default_factory=Counter)
    """Files left alone, by suffix."""
    existing: int = 0
    """Inputs left out because their sidecar is there."""
    not_ours: int = 0
    """Inputs whose sidecar is there and was not made by this job."""


def kind_of(source: str) -> SourceKind:
    """By the suffix of the file or glob; a directory is one of images."""
    name = (source.partition("?")[0] if "://" in source else source).lower()
    suffix = PurePosixPath(name).suffix
    if suffix in LIST_SUFFIXES:
        return "list"
    if suffix in tables.SUFFIXES:
        return "table"
    if name.endswith(tars.SUFFIXES):
        return "webdataset"
    return "images"


def inputs(settings: JobSettings, found: Found) -> Iterator[Input]:
    """All inputs of the source. Raises `InvalidOption` if there is no such source, and `OSError`."""
    match settings.source_kind:
        case "images":
            yield from _images(settings.source, settings.exclude, found)
        case "list":
            yield from _listed(settings.source)
        case "table":
            for file in _files(settings.source):
                yield from tables.inputs(file, settings.column, settings.columns)
        case "webdataset":
            for file in _files(settings.source):
                yield from tars.inputs(file, IMAGE_SUFFIXES, found.other)


def _images(source: str, exclude: Sequence[str], found: Found) -> Iterator[Input]:
    storage, path = filesystem(source)
    if not isinstance(storage, LocalFileSystem):
        yield from _remote_images(source, exclude, found)
    elif _MAGIC & set(source) and not os.path.exists(source):
        files = glob.iglob(source, recursive=True)
        for name in sorted(file for file in files if not os.path.isdir(file)):
            yield from _image(os.fsencode(os.path.abspath(name)), b"/", "", name, exclude, found)
    elif os.path.isdir(path):
        root = os.fsencode(path)
        for file in _walk(root, (), found):
            if isinstance(file, Input):
                yield file
            else:
                yield from _image(file, root, source, None, exclude, found)
    elif os.path.isfile(path):
        yield replace(local_input(os.fsencode(path), os.fsencode(str(Path(path).parent)), ""), path=shown(source))
    else:
        raise InvalidOption(f"There is no file or directory {source!r}.")


def _left_alone(name: str, exclude: Sequence[str]) -> str | None:
    """Why a file is no input, as a word to count by; None for an image."""
    path = PurePosixPath(name)
    if path.name.startswith("._"):  # of macOS, beside each file that it copies
        return "._ files"
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return shown(path.suffix.lower()) or "no suffix"
    excluded = any(fnmatch.fnmatchcase(name, pattern) or path.match(pattern) for pattern in exclude)
    return "excluded" if excluded else None


def _image(
    file: bytes, root: bytes, shown_root: str, path: str | None, exclude: Sequence[str], found: Found
) -> Iterator[Input]:
    item = local_input(file, root, shown_root)
    if path is not None:
        item = replace(item, path=shown(path), name=without_climbing(path))
    if word := _left_alone(item.name, exclude):
        found.other[word] += 1
        return
    yield item


def _walk(folder: bytes, above: tuple[tuple[int, int], ...], found: Found) -> Iterator[bytes | Input]:
    """Files in a stable order; links are followed, into a folder that is being walked they are not."""
    try:
        state = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        path = os.fsdecode(folder)
        yield Input(shown(path), os.path.basename(path), folder, error=f"unreadable: {reason_of(error)}.")
        return
    here = (state.st_dev, state.st_ino)
    if here in above:
        found.other["link in a loop"] += 1
        return
    for entry in entries:
        if not _is_folder(entry):
            yield entry.path
        elif entry.name in SYSTEM_FOLDERS:
            found.other[f"folder {os.fsdecode(entry.name)}"] += 1
        elif entry.name != OWN_FOLDER.encode():
            yield from _walk(entry.path, (*above, here), found)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _remote_images(source: str, exclude: Sequence[str], found: Found) -> Iterator[Input]:
    scheme = source.partition("://")[0]
    storage, path = filesystem(source)
    if _MAGIC & set(path):
        files: Iterator[str] = iter(sorted(map(str, storage.glob(path))))
    elif storage.isfile(path):
        files = iter([path])
    else:
        files = _remote_walk(storage, path)
    root = path.rstrip("/") + "/"
    for file in files:
        if file.startswith(root):
            name = file.removeprefix(root)
            url = f"{source.rstrip('/')}/{name}"
        else:  # of a glob
            name = file.lstrip("/")
            url = file if "://" in file else f"{scheme}://{name}"
        if word := _left_alone(name, exclude):
            found.other[word] += 1
        else:
            yield Input(url, name, url.encode())


def _remote_walk(storage: object, path: str) -> Iterator[str]:
    """One folder after the other, so that a listing never holds all names."""
    for folder, folders, files in storage.walk(path):  # type: ignore[attr-defined]
        folders[:] = sorted(name for name in folders if name != OWN_FOLDER)
        for name in sorted(files):
            yield f"{str(folder).rstrip('/')}/{name}"


def _listed(source: str) -> Iterator[Input]:
    """Paths and URLs, one a line; relative ones start at the list's folder."""
    storage, path = filesystem(source)
    local = isinstance(storage, LocalFileSystem)
    base = path.rpartition("/")[0]
    scheme = "" if local else source.partition("://")[0] + "://"
    try:
        with texts.opened(source) as lines:
            for line in lines:
                if name := line.strip("\r\n"):
                    yield named(name, base, scheme)
    except UnicodeError as error:
        raise InvalidOption(f"{source}: the text is not what its byte order mark says: {error}.") from error


def _files(source: str) -> list[str]:
    """The tables or tars that a path or glob names."""
    storage, path = filesystem(source)
    if _MAGIC & set(path):
        files = sorted(map(str, storage.glob(path)))
    elif storage.isfile(path):
        files = [path]
    else:
        files = []
    if not files:
        raise InvalidOption(f"There is no file {source!r}.")
    if isinstance(storage, LocalFileSystem):
        return files
    scheme = source.partition("://")[0]
    return [file if "://" in file else f"{scheme}://{file}" for file in files]
