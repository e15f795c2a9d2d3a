"""What both clients share: the service's address, the key, and the limits of retries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from serve_app.client import wire
from serve_app.deadline import Deadline
from serve_app.retry import Retries


class BaseClient:
    def __init__(self, base_url: str, api_key: str | None, timeout_s: float, max_retries: int) -> None:
        self._root = base_url.rstrip("/")
        self._headers = wire.headers(api_key or os.environ.get(wire.KEY_VARIABLE))
        self._timeout_s = timeout_s
        self._max_retries = max_retries

    def _retries(self) -> Retries:
        """Of one request."""
        return Retries(self._max_retries, Deadline.after(self._timeout_s))

    def _addressed(self, path: str, headers: Mapping[str, str], request: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of httpx's `build_request`."""
        return {"method": "POST", "url": self._root + path, "headers": {**self._headers, **headers}, **request}
