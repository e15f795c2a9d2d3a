"""Which images are being captioned, and what came of those that were: so that duplicates are captioned once."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

WAIT_S = 300.0
"""An image whose claim is not answered by then is captioned again: its engine may be gone."""

MINE, ELSEWHERE = "mine", "elsewhere"


class Claims:
    """Remembers the answers of the last `window` distinct images, by digest. One actor of the job."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._answers: OrderedDict[str, bytes] = OrderedDict()
        self._claimed: dict[str, tuple[str, asyncio.Event]] = {}
        self._lives: dict[str, str] = {}

    async def begin(self, actor: str, life: str) -> None:
        """An actor has started, perhaps again: what its earlier life had claimed is nobody's now."""
        ended = self._lives.get(actor)
        self._lives[actor] = life
        for digest in [digest for digest, (owner, _) in self._claimed.items() if owner == ended]:
            self._claimed.pop(digest)[1].set()

    async def claim(self, life: str, digests: Sequence[str]) -> list[bytes | str]:
        """For each image its answer, `MINE` for the caller to caption, or `ELSEWHERE` when another call is at it."""
        told: list[bytes | str] = []
        for digest in digests:
            if digest in self._answers:
                self._answers.move_to_end(digest)
                told.append(self._answers[digest])
            elif digest in self._claimed:
                told.append(ELSEWHERE)
            else:
                self._claimed[digest] = (life, asyncio.Event())
                told.append(MINE)
        return told

    async def publish(self, answers: Mapping[str, bytes | None]) -> None:
        """The answers of claimed images; None gives a claim back."""
        for digest, answer in answers.items():
            if answer is not None and self._window:
                self._answers[digest] = answer
                while len(self._answers) > self._window:
                    self._answers.popitem(last=False)
            if (claimed := self._claimed.pop(digest, None)) is not None:
                claimed[1].set()

    async def wait(self, digest: str) -> bytes | None:
        """The answer of an image that another call is at; None when there will be none."""
        if (claimed := self._claimed.get(digest)) is not None:
            try:
                async with asyncio.timeout(WAIT_S):
                    await claimed[1].wait()
            except TimeoutError:
                self._claimed.pop(digest, None)
        return self._answers.get(digest)

    async def in_progress(self) -> int:
        """Images that engines are at."""
        return len(self._claimed)


def packed(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()
