"""API keys: hashed where they are kept, read again when their file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from serve_app.errors import InvalidOption

logger = logging.getLogger(__name__)

KEYS_VARIABLE = "CAPTION_SERVE_API_KEYS"
"""Environment variable with lines of a key file, separated by commas or white space."""
LOOK_AGAIN_S = 1.0
MAX_KEY_CHARACTERS = 512

_LINE = re.compile(r"^(?P<name>[A-Za-z0-9_.-]{1,64}):sha256:(?P<digest>[0-9a-f]{64})$")


def new_key(name: str) -> tuple[str, str]:
    """A new key and its line for the file.

    The key has 256 random bits, so a plain SHA-256 of it cannot be guessed back. Raises `InvalidOption`.
    """
    key = "cs-" + secrets.token_urlsafe(32)
    line = f"{name}:sha256:{_digest(key)}"
    if not _LINE.match(line):
        raise InvalidOption("The name of a key has up to 64 letters, digits, dots, hyphens or underscores.")
    return key, line


class KeyStore:
    """The keys that are let in. Without a file and an environment variable nobody needs one."""

    def __init__(
        self, file: str | None, environment: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `InvalidOption` if the file or the variable cannot be read."""
        self._file = None if file is None else Path(file)
        self._clock = clock
        self.active = file is not None or environment is not None
        lines = re.split(r"[\s,]+", environment or "")
        self._fixed = parse_keys(lines, KEYS_VARIABLE)
        self._keys: dict[str, str] = dict(self._fixed)
        self._seen: tuple[int, ...] | None = None
        self._looked_at = -LOOK_AGAIN_S
        if self._file is not None:
            self._read(self._file)
            self._looked_at = clock()

    def check(self, key: str) -> str | None:
        """The name of the key, or None for one that is not known. Takes the same time for every wrong key."""
        self._look_again()
        digest = _digest(key[: MAX_KEY_CHARACTERS + 1])
        found = None
        for name, known in self._keys.items():
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _look_again(self) -> None:
        if self._file is None or self._clock() - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = self._clock()
        try:
            if _stamp(self._file) != self._seen:
                self._read(self._file)
        except (InvalidOption, OSError) as error:
            logger.warning("the API keys stay as they were: %s", error)

    def _read(self, file: Path) -> None:
        try:
            stamp = _stamp(file)
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidOption(
                f"The key file {file} cannot be read: {getattr(error, 'strerror', 'no UTF-8')}."
            ) from error
        keys = parse_keys(lines, str(file))
        if twice := keys.keys() & self._fixed.keys():
            raise InvalidOption(f"{file}: the key {min(twice)!r} is in {KEYS_VARIABLE} too.")
        self._keys, self._seen = {**self._fixed, **keys}, stamp


def parse_keys(lines: list[str], source: str) -> dict[str, str]:
    """Name → digest. Raises `InvalidOption` that names the line."""
    keys: dict[str, str] = {}
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise InvalidOption(f"{source}, line {number}: a key is written as name:sha256:<64 hexadecimal digits>.")
        if match["name"] in keys:
            raise InvalidOption(f"{source}, line {number}: the name {match['name']!r} is there twice.")
        keys[match["name"]] = match["digest"]
    return keys


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size
