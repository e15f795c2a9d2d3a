"""A bound on the memory that parsing takes: a megabyte of tiny values becomes a hundred."""

from __future__ import annotations

from serve_app.errors import InvalidRequest

MAX_VALUES = 50_000
"""Far more than any request of ours needs. Separators inside strings count too; base64 and prompts have few."""


def check_json_size(data: bytes | bytearray) -> None:
    """Raises `InvalidRequest` for JSON with more values than any request needs."""
    if data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_VALUES:
        raise InvalidRequest(f"The JSON has more than {MAX_VALUES} values.")
