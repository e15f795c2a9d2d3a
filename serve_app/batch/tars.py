"""WebDataset tars as sources: every image member is an input, read later by its place in the file."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from serve_app.batch.folder import filesystem
from serve_app.batch.inputs import Input

SUFFIXES = (".tar",)


def inputs(file: str, image_suffixes: tuple[str, ...]) -> Iterator[Input]:
    """Image members in the order of the tar. One that is cut short ends with an input that says so."""
    storage, path = filesystem(file)
    label = PurePosixPath(file).stem
    try:
        with storage.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                setattr(tar, "members", [])  # noqa: B010  # tarfile keeps every header otherwise
                suffix = PurePosixPath(member.name).suffix.lower()
                if member.isfile() and suffix in image_suffixes:
                    yield Input(
                        f"{file}#{member.name}",
                        f"{label}/{member.name}",
                        file.encode(),
                        member.offset_data,
                        member.size,
                    )
    except (tarfile.TarError, EOFError) as error:
        yield Input(file, label, file.encode(), error=f"unreadable: The tar is broken: {str(error).rstrip('.')}.")
