"""API keys and their file: `caption-serve key`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from serve_app.errors import InvalidOption
from serve_app.service.keys import new_key, parse_keys


def make_key(name: str, file: Path | None, **limits: Any) -> tuple[str, str]:
    """A new key and its line, appended to `file` (made for its owner only). Raises `InvalidOption`."""
    key, line = new_key(name, **limits)
    if file is None:
        return key, line
    try:
        present = file.read_text(encoding="utf-8") if file.exists() else ""
        parse_keys([*present.splitlines(), line], str(file))
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as output:
            output.write(("" if not present or present.endswith("\n") else "\n") + line + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error
    return key, line


def list_keys(file: Path) -> list[str]:
    """A line of words for each key. Raises `InvalidOption`."""
    keys = parse_keys(_lines(file), str(file))
    return ["  ".join([key.name, *key.limits(), *(["expired"] if key.expired else [])]) for key in keys.values()]


def revoke_key(name: str, file: Path) -> None:
    """Takes a key out of the file, which appears whole or stays as it was. Raises `InvalidOption`."""
    lines = _lines(file)
    if name not in parse_keys(lines, str(file)):
        raise InvalidOption(f"{file}: there is no key {name!r}.")
    kept = [line for line in lines if line.strip().partition(":")[0] != name]
    fresh = file.with_name(f"{file.name}.new")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
            output.write("".join(f"{line}\n" for line in kept))
        os.chmod(fresh, file.stat().st_mode & 0o777)
        os.replace(fresh, file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> InvalidOption:
    return InvalidOption(f"{file}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}.")
