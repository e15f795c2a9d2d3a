"""What is remembered of a finished shard: its counts, and a sample of its rows for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAMPLE = 4
"""Rows of a shard that the report may show, taken evenly."""
WORDS_BIN = 5


@dataclass(frozen=True, slots=True)
class Mark:
    """Counts of one shard."""

    captioned: int
    reused: int
    failed: dict[str, str]
    """The reason of each row without a caption, by its place."""
    words: dict[str, int]
    """How many captions have so many words, by the first number of each bin of `WORDS_BIN`."""
    scores: dict[str, int]
    """How many clauses have such a score, by its first decimal; empty without scores."""
    sample: list[dict[str, Any]]
    """Place in the shard, path, caption and error of some rows."""
    rows: int
    fingerprint: str | None
    """What made most of the rows."""
    others: dict[str, str | None]
    """What made the others, by place; None for rows that have no caption of this job's making."""

    @property
    def reasons(self) -> Counter[str]:
        return Counter(self.failed.values())

    def made_by(self) -> list[str | None]:
        """The fingerprint of each row."""
        return [self.others.get(str(place), self.fingerprint) for place in range(self.rows)]


def mark_of(rows: Sequence[Mapping[str, Any]]) -> Mark:
    captions = [str(row["caption"]) for row in rows if row["caption"] is not None]
    scores = [clause["score"] for row in rows for clause in row.get("clauses") or () if clause["score"] is not None]
    step = max(1, len(rows) // SAMPLE)
    made_by = [row.get("fingerprint") for row in rows]
    most = Counter(made_by).most_common(1)[0][0] if rows else None
    return Mark(
        captioned=len(captions),
        reused=sum(row.get("reused", 0) for row in rows),
        failed={str(place): row["reason"] for place, row in enumerate(rows) if row["caption"] is None},
        words=dict(Counter(str(len(text.split()) // WORDS_BIN * WORDS_BIN) for text in captions)),
        scores=dict(Counter(f"{int(min(score, 0.999) * 10) / 10:.1f}" for score in scores)),
        sample=[
            {
                "place": place,
                "path": rows[place]["path"],
                "caption": rows[place]["caption"],
                "error": rows[place]["error"],
            }
            for place in range(0, len(rows), step)[:SAMPLE]
        ],
        rows=len(rows),
        fingerprint=most,
        others={str(place): fingerprint for place, fingerprint in enumerate(made_by) if fingerprint != most},
    )
