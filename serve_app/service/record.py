"""What is remembered of a request for its line in the log."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Record:
    """Of the captions of one request, whichever interface it came by."""

    rows: int = 0
    captions: int = 0
    strategy: str | None = None
    degraded: int = 0
    """Captions that lack something."""
    cache: str | None = None
    """`hit` or `miss`, of the answer to a request for one caption; None if answers are not kept."""


RECORD: ContextVar[Record | None] = ContextVar("record", default=None)
"""Of the running request, if somebody wants it."""
