"""API keys: hashed where they are kept, read again when their file changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import InvalidOption

logger = logging.getLogger(__name__)

KEYS_VARIABLE = "CAPTION_SERVE_API_KEYS"
"""Environment variable with lines of a key file, separated by commas or white space."""
FILE_VARIABLE = "CAPTION_SERVE_API_KEYS_FILE"
"""Environment variable that names the file if no setting does."""
LOOK_AGAIN_S = 1.0
MAX_KEY_CHARACTERS = 512

_LINE = re.compile(r"^(?P<name>[A-Za-z0-9_.-]{1,64}):sha256:(?P<digest>[0-9a-f]{64})(?P<more>(?:;[a-z_]+=[^;\s,]+)*)$")


class Key(BaseModel):
    """A key as its line says: `name:sha256:<digest>`, then any of the limits, each behind a semicolon."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    digest: str = Field(repr=False)
    rows_per_minute: int | None = Field(None, ge=1, description="instead of key_rows_per_minute")
    rows_at_once: int | None = Field(None, ge=1, description="instead of key_rows_at_once")
    expires: date | None = Field(None, description="the first day on which it is not valid any more (UTC)")

    @property
    def line(self) -> str:
        """For the file."""
        return ";".join([f"{self.name}:sha256:{self.digest}", *self.limits()])

    def limits(self) -> list[str]:
        """As words `name=value`."""
        given = self.model_dump(exclude={"name", "digest"}, exclude_none=True, mode="json")
        return [f"{name}={value}" for name, value in given.items()]

    @property
    def expired(self) -> bool:
        return self.expires is not None and datetime.now(UTC).date() >= self.expires


def new_key(name: str, **limits: Any) -> tuple[str, str]:
    """A new key and its line for the file; `limits` as in `Key`.

    The key has 256 random bits, so a plain SHA-256 of it cannot be guessed back. Raises `InvalidOption`.
    """
    key = "cs-" + secrets.token_urlsafe(32)
    line = Key(name=name, digest=digest_of(key), **limits).line
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
        self._keys: dict[str, Key] = dict(self._fixed)
        self._seen: tuple[int, ...] | None = None
        self._looked_at = -LOOK_AGAIN_S
        if self._file is not None:
            self._read(self._file)
            self._looked_at = clock()

    def check(self, key: str) -> Key | None:
        """The key, or None for one that is not known or has expired. Takes the same time for every wrong key."""
        self._look_again()
        digest = digest_of(key[: MAX_KEY_CHARACTERS + 1])
        found = None
        for known in self._keys.values():
            if hmac.compare_digest(digest, known.digest):
                found = known
        return None if found is None or found.expired else found

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


def parse_keys(lines: list[str], source: str) -> dict[str, Key]:
    """The keys by their names. Raises `InvalidOption` that names the line."""
    keys: dict[str, Key] = {}
    for number, line in enumerate((line.strip() for line in lines), start=1):
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise InvalidOption(f"{source}, line {number}: a key is written as name:sha256:<64 hexadecimal digits>.")
        if match["name"] in keys:
            raise InvalidOption(f"{source}, line {number}: the name {match['name']!r} is there twice.")
        more = dict(word.split("=", 1) for word in match["more"].split(";")[1:])
        try:
            keys[match["name"]] = Key(name=match["name"], digest=match["digest"], **more)
        except (ValidationError, TypeError) as error:
            known = ", ".join(name for name in Key.model_fields if name not in ("name", "digest"))
            raise InvalidOption(f"{source}, line {number}: a key's limits are {known}.") from error
    return keys


def digest_of(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size
