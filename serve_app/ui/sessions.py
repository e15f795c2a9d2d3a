"""Work of visitors, which ends when they leave."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


class Sessions:
    """The running work of each visitor, by session."""

    def __init__(self) -> None:
        self._running: defaultdict[str, set[asyncio.Task[None]]] = defaultdict(set)

    async def run(self, session: str, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Passes `items` on, and their error; ends early when the visitor leaves.

        `items` is closed at once when this generator is, though it may be waiting then.
        """
        found: asyncio.Queue[T | None] = asyncio.Queue()
        task = asyncio.ensure_future(_feed(items, found))
        task.add_done_callback(lambda _: found.put_nowait(None))
        self._running[session].add(task)
        try:
            while (item := await found.get()) is not None:
                yield item
            if not task.cancelled():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._running[session].discard(task)
            if not self._running[session]:
                self._running.pop(session, None)

    def leave(self, session: str) -> None:
        """Ends what the visitor had begun."""
        for task in tuple(self._running.get(session, ())):
            task.cancel()


async def _feed(items: AsyncGenerator[T, None], found: asyncio.Queue[T | None]) -> None:
    async with aclosing(items):
        async for item in items:
            found.put_nowait(item)
