"""What the page asks of the service behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

from serve_app.tasks import Task


class PageBackend(Protocol):
    """A caption service, near or behind a handle. Methods raise `CaptionServeError`."""

    def events(self, image: bytes, options: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Events of `serve_app.contract` as mappings, the last one a `result`; closing the generator ends the work."""
        ...

    async def ask(self, task: Task, image: bytes, subject: Any) -> dict[str, Any]:
        """`task.body` as a mapping."""
        ...

    async def describe(self) -> dict[str, Any]:
        """`serve_app.contract.Description` as a mapping."""
        ...


class PageKeys(Protocol):
    """The keys of the service behind the page. Methods raise `ServiceError`."""

    async def keys_needed(self) -> bool:
        """Whether the service asks for API keys; the page does, too, then."""
        ...

    async def check_keys(self, given: Sequence[str]) -> str | None:
        """The name of the first of these keys that the service knows."""
        ...
