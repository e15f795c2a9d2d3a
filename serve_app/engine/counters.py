"""What the engine counts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Plain numbers since the start, unless they say "now". Times in seconds, sizes in bytes."""

    steps: int = 0
    tokens: int = 0
    """Tokens chosen, one for each row and step."""
    groups_finished: int = 0
    groups_failed: int = 0
    groups_dropped: int = 0
    """Cancelled or out of time."""
    waiting: int = 0
    """Groups in the queue, now."""
    rows: int = 0
    """Rows in use, now."""
    max_rows: int = 0
    wait_s: float = 0.0
    """Time in the queue, summed over the groups that were admitted."""
    image_hits: int = 0
    image_misses: int = 0
    image_bytes: int = 0
    """Encoded images, now."""
    cache_bytes: int = 0
    """Memory of the self-attention caches, now."""
    encode_s: float = 0.0
    forward_s: float = 0.0
    search_s: float = 0.0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Adds the block's duration to `<phase>_s`. On a GPU a step is all `forward`, the time to hand it over."""
        start = time.perf_counter()
        try:
            yield
        finally:
            name = f"{phase}_s"
            setattr(self, name, getattr(self, name) + time.perf_counter() - start)

    @property
    def batch_fill(self) -> float:
        """Mean share of the rows that a step used, 0 to 1."""
        return self.tokens / (self.steps * self.max_rows) if self.steps else 0.0
