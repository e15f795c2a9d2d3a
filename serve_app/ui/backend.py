"""What the page asks of the service behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Protocol


class Backend(Protocol):
    """A caption service, near or behind a handle. Methods raise `CaptionServeError`."""

    def events(self, image: bytes, options: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Events of `serve_app.contract` as mappings, the last one a `result`; closing the generator ends the work."""
        ...

    async def answer(self, image: bytes, question: str) -> dict[str, Any]:
        """`serve_app.contract.AnswerBody` as a mapping."""
        ...

    async def match(self, image: bytes, texts: list[str]) -> dict[str, Any]:
        """`serve_app.contract.MatchBody` as a mapping."""
        ...

    async def describe(self) -> dict[str, Any]:
        """`serve_app.contract.Description` as a mapping."""
        ...
