"""Making API keys: `caption-serve key`."""

from __future__ import annotations

import os
from pathlib import Path

from serve_app.errors import InvalidOption
from serve_app.service.keys import new_key, parse_keys


def make_key(name: str, file: Path | None) -> tuple[str, str]:
    """A new key and its line, appended to `file` (made for its owner only). Raises `InvalidOption`."""
    key, line = new_key(name)
    if file is None:
        return key, line
    try:
        present = file.read_text(encoding="utf-8") if file.exists() else ""
        parse_keys([*present.splitlines(), line], str(file))
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as output:
            output.write(("" if not present or present.endswith("\n") else "\n") + line + "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{file}: {getattr(error, 'strerror', None) or 'no UTF-8 text'}.") from error
    return key, line
