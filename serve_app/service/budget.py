"""Memory that requests may take together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from serve_app.errors import Overloaded

RETRY_AFTER_S = 2.0
"""About what it takes to decode the images that are in the way."""


class Budget:
    """Bytes in use. What alone is larger than the budget may have it when nobody else has any. Thread-safe."""

    def __init__(self) -> None:
        self.used = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int, most: int, wait_s: float = 0.0) -> Iterator[None]:
        """Holds `size` of `most` bytes during the block. Raises `Overloaded` if they are not free within `wait_s`."""
        self.take(size, most, wait_s)
        try:
            yield
        finally:
            self.give_back(size)

    def take(self, size: int, most: int, wait_s: float = 0.0) -> None:
        """Raises `Overloaded`."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self.used or self.used + size <= most, wait_s):
                raise Overloaded("The service has no memory left for this request; try again later.", RETRY_AFTER_S)
            self.used += size

    def give_back(self, size: int) -> None:
        with self._changed:
            self.used -= size
            self._changed.notify_all()
