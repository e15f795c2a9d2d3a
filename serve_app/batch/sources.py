"""From what a user names as a source to its inputs, in an order that is the same every time."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from fsspec.implementations.local import LocalFileSystem

from serve_app.batch import tables, tars
from serve_app.batch.folder import filesystem, reason_of
from serve_app.batch.inputs import Input, local_input, named, shown
from serve_app.batch.settings import JobSettings, SourceKind
from serve_app.errors import InvalidOption

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
LIST_SUFFIXES = (".txt", ".lst", ".list")
OWN_FOLDER = "_job"
"""Where a job keeps its state, below its output; never a source."""
_MAGIC = frozenset("*?[")


@dataclass
class Found:
    """What was met on the way besides inputs."""

    other: Counter[str] = field(default_factory=Counter)
    """Files left alone, by suffix."""
    existing: int = 0
    """Inputs left out because their sidecar is there."""


def kind_of(source: str) -> SourceKind:
    """By the suffix of the file or glob; a directory is one of images."""
    suffix = PurePosixPath(source.partition("?")[0] if "://" in source else source).suffix.lower()
    if suffix in LIST_SUFFIXES:
        return "list"
    if suffix in tables.SUFFIXES:
        return "table"
    if suffix in tars.SUFFIXES:
        return "webdataset"
    return "images"


def inputs(settings: JobSettings, found: Found) -> Iterator[Input]:
    """All inputs of the source. Raises `InvalidOption` if there is no such source, and `OSError`."""
    match settings.source_kind:
        case "images":
            yield from _images(settings.source, found)
        case "list":
            yield from _listed(settings.source)
        case "table":
            for file in _files(settings.source):
                yield from tables.inputs(file, settings.column, settings.columns)
        case "webdataset":
            for file in _files(settings.source):
                yield from tars.inputs(file, IMAGE_SUFFIXES)


def with_own_sidecars(found: Iterator[Input], suffix: str) -> Iterator[Input]:
    """Renames inputs that would share a sidecar with an earlier one of the same folder: `a.jpg`, `a.png` get
    `a.txt`, `a.png.txt`."""
    folder, stems = "", set[str]()
    for item in found:
        path = PurePosixPath(item.name)
        if str(path.parent) != folder:
            folder, stems = str(path.parent), set()
        if path.stem in stems:
            item = replace(item, name=item.name + suffix)
        stems.add(PurePosixPath(item.name).stem)
        yield item


def _images(source: str, found: Found) -> Iterator[Input]:
    storage, path = filesystem(source)
    if not isinstance(storage, LocalFileSystem):
        yield from _remote_images(source, found)
    elif _MAGIC & set(source) and not os.path.exists(source):
        files = glob.iglob(source, recursive=True)
        for name in sorted(file for file in files if not os.path.isdir(file)):
            yield from _image(os.fsencode(os.path.abspath(name)), b"/", "", name, found)
    elif os.path.isdir(path):
        root = os.fsencode(path)
        for file in _walk(root, (), found):
            if isinstance(file, Input):
                yield file
            else:
                yield from _image(file, root, source, None, found)
    elif os.path.isfile(path):
        yield replace(local_input(os.fsencode(path), os.fsencode(str(Path(path).parent)), ""), path=source)
    else:
        raise InvalidOption(f"There is no file or directory {source!r}.")


def _image(file: bytes, root: bytes, shown_root: str, path: str | None, found: Found) -> Iterator[Input]:
    suffix = os.path.splitext(file)[1].lower().decode("ascii", "replace")
    if suffix not in IMAGE_SUFFIXES:
        found.other[suffix or "no suffix"] += 1
        return
    item = local_input(file, root, shown_root)
    if path is not None:
        clean = shown(os.fsencode(path))
        item = replace(item, path=clean, name=clean.lstrip("./").replace("../", ""))
    yield item


def _walk(folder: bytes, above: tuple[tuple[int, int], ...], found: Found) -> Iterator[bytes | Input]:
    """Files in a stable order; links are followed, into a folder that is being walked they are not."""
    try:
        state = os.stat(folder)
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield Input(shown(folder), shown(os.path.basename(folder)), folder, error=f"unreadable: {reason_of(error)}.")
        return
    here = (state.st_dev, state.st_ino)
    if here in above:
        found.other["link in a loop"] += 1
        return
    for entry in entries:
        if not _is_folder(entry):
            yield entry.path
        elif entry.name != OWN_FOLDER.encode():
            yield from _walk(entry.path, (*above, here), found)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _remote_images(source: str, found: Found) -> Iterator[Input]:
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
        suffix = PurePosixPath(file).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            found.other[suffix or "no suffix"] += 1
            continue
        if file.startswith(root):
            name = file.removeprefix(root)
            url = f"{source.rstrip('/')}/{name}"
        else:  # of a glob
            name = file.lstrip("/")
            url = file if "://" in file else f"{scheme}://{name}"
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
    try:
        lines = storage.open(path, "rt", encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        raise InvalidOption(f"There is no file {source!r}.") from None
    base = path.rpartition("/")[0]
    scheme = "" if local else source.partition("://")[0] + "://"
    with lines:
        for line in lines:
            if name := line.strip("\r\n"):
                yield named(name, base, scheme)


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
