"""WebDataset tars as sources: every image member is an input, read later by its place in the file."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from serve_app.batch.folder import filesystem
from serve_app.batch.inputs import Input
from serve_app.batch.names import shown
from serve_app.errors import InvalidOption

SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


def inputs(file: str, image_suffixes: tuple[str, ...], other: Counter[str]) -> Iterator[Input]:
    """Image members in the order of the tar; the others are counted by suffix. A tar that is cut short ends with an
    input that says so. Raises `InvalidOption` for a compressed one, which cannot be read at a place."""
    storage, path = filesystem(file)
    label = PurePosixPath(file).stem
    with storage.open(path, "rb") as stream:
        start = stream.read(6)
        stream.seek(0)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                yield from _members(tar, file, label, image_suffixes, other)
        except OSError as error:
            if error.errno is not None:
                raise
            yield _broken(file, label, error)
        except Exception as error:  # tarfile raises many kinds for broken headers
            # Only of a file that is no tar: a tar begins with a name, which may begin with anything.
            if kind := next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None):
                raise InvalidOption(f"{file}: the tar is compressed ({kind}); unpack it to a .tar first.") from error
            yield _broken(file, label, error)


def _members(
    tar: tarfile.TarFile, file: str, label: str, image_suffixes: tuple[str, ...], other: Counter[str]
) -> Iterator[Input]:
    for member in tar:
        setattr(tar, "members", [])  # noqa: B010  # tarfile keeps every header otherwise
        if not member.isfile():
            continue
        suffix = PurePosixPath(member.name).suffix.lower()
        if suffix not in image_suffixes or PurePosixPath(member.name).name.startswith("._"):
            other[shown(suffix) or "no suffix"] += 1
            continue
        yield Input(
            f"{shown(file)}#{shown(member.name)}",
            f"{label}/{member.name}",
            file.encode(),
            member.offset_data,
            member.size,
            error="unreadable: Sparse members of tars are not read." if member.issparse() else "",
        )


def _broken(file: str, label: str, error: Exception) -> Input:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return Input(shown(file), label, file.encode(), error=f"unreadable: The tar is broken: {shown(reason)}.")
