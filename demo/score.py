"""How much of a scene a caption names, and how much that is not there.

Object recall is the share of the scenes' kinds that a caption names; the wrong-object rate is the
share of the kinds named that are not there, the instance measure of CHAIR (Rohrbach et al. 2018,
https://arxiv.org/abs/1809.02156).
"""

from __future__ import annotations

from dataclasses import dataclass

from demo.objects import nouns_in
from demo.scenes import Scene


@dataclass
class Score:
    """Counts over all scenes so far."""

    there: int = 0
    found: int = 0
    named: int = 0
    wrong: int = 0
    words: int = 0
    scenes: int = 0

    def add(self, scene: Scene, text: str) -> None:
        named = nouns_in(text)
        self.there += len(scene.nouns)
        self.found += len(scene.nouns & named)
        self.named += len(named)
        self.wrong += len(named - scene.nouns)
        self.words += len(text.split())
        self.scenes += 1

    def summary(self) -> dict[str, float]:
        return {
            "recall": round(self.found / max(1, self.there), 4),
            "wrong": round(self.wrong / max(1, self.named), 4),
            "words": round(self.words / max(1, self.scenes), 1),
        }
