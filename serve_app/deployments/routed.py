"""Where the calls of this process went."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque

REMEMBERED = 2000
"""Sessions (images of a deployment) of which it is known where their calls went."""


class Routes:
    """The last replicas (id and node) that calls of a session went to. Thread-safe: a router may have a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[str, deque[tuple[str, str]]] = OrderedDict()

    def add(self, session: str, replica: str, node: str) -> None:
        with self._lock:
            route = self._found.setdefault(session, deque(maxlen=2))
            self._found.move_to_end(session)
            if (replica, node) in route:
                route.remove((replica, node))
            route.append((replica, node))
            if len(self._found) > REMEMBERED:
                self._found.popitem(last=False)

    def last(self, session: str) -> list[tuple[str, str]]:
        """The last two, the older first."""
        with self._lock:
            return list(self._found.get(session, ()))


ROUTES = Routes()
"""Of this process."""
