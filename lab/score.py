"""How much of a scene a caption tells, and how much of it is true.

Object recall is the share of the scenes' kinds that a caption names; the wrong-object rate is the share of the kinds
named that are not there, the instance measure of CHAIR (Rohrbach et al. 2018, https://arxiv.org/abs/1809.02156).
Counts and relations (sizes, colors, positions and what lies beside or on what) are shares of what the captions claim
(`lab.facts`), told is the share of the scenes' facts (count, size, color and place of every group, background) that
they state rightly, well-formed captions those without a fault (`lab.grammar`). Intervals are percentiles of a bootstrap
over scenes (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from lab.facts import claims, facts_of
from lab.grammar import faults
from lab.objects import nouns_in
from lab.scenes import Scene

MEASURES: dict[str, tuple[str, str]] = {
    "recall": ("found", "there"),
    "wrong": ("invented", "named"),
    "counts": ("counts right", "counts"),
    "relations": ("relations right", "relations"),
    "told": ("told", "facts"),
    "well_formed": ("well-formed", "scenes"),
    "repeated": ("repeated", "words"),
    "words": ("words", "scenes"),
}
"""Measure → what is divided by what, both summed over the scenes."""
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass
class Score:
    """Counts of each scene so far."""

    rows: list[dict[str, int]] = field(default_factory=list)

    def add(self, scene: Scene, text: str) -> None:
        named = nouns_in(text)
        claimed = claims(text)
        counts = [claim for claim in claimed if claim.kind == "count"]
        relations = [claim for claim in claimed if claim.kind in ("size", "color", "position", "relation")]
        self.rows.append(
            {
                "there": len(scene.nouns),
                "found": len(scene.nouns & named),
                "named": len(named),
                "invented": len(named - scene.nouns),
                "counts": len(counts),
                "counts right": sum(claim.holds(scene) for claim in counts),
                "relations": len(relations),
                "relations right": sum(claim.holds(scene) for claim in relations),
                "told": len(claimed & facts_of(scene)),
                "facts": len(facts_of(scene)),
                "well-formed": not faults(text),
                "repeated": repeated(text),
                "words": len(text.split()),
                "scenes": 1,
            }
        )

    def summary(self) -> dict[str, float]:
        return {
            name: round(sum(row[part] for row in self.rows) / max(1, sum(row[whole] for row in self.rows)), 4)
            for name, (part, whole) in MEASURES.items()
        }

    def intervals(self, seed: int = 0) -> dict[str, tuple[float, float]]:
        """For each measure the bounds of its interval of confidence."""
        rng = np.random.default_rng(seed)
        picks = rng.integers(len(self.rows), size=(RESAMPLES, len(self.rows)))
        found = {}
        for name, (part, whole) in MEASURES.items():
            over = np.array([row[part] for row in self.rows])[picks].sum(1)
            under = np.array([row[whole] for row in self.rows])[picks].sum(1)
            low, high = np.percentile(over / np.maximum(1, under), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
            found[name] = (round(float(low), 4), round(float(high), 4))
        return found


def repeated(text: str) -> int:
    """Words that belong to a run of four that stood in the text before."""
    words = re.findall(r"[a-z]+", text.lower())
    seen: set[tuple[str, ...]] = set()
    marked: set[int] = set()
    for at in range(len(words) - 3):
        run = tuple(words[at : at + 4])
        if run in seen:
            marked.update(range(at, at + 4))
        seen.add(run)
    return len(marked)
