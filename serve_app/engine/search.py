"""What a search is: something that chooses the next tokens of many groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from serve_app.engine.parameters import SearchParameters


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished sequence: prompt and answer as token ids, and its beam score (None without beams)."""

    ids: list[int]
    score: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step chose. parents and tokens [groups, rows]; `parents` are rows within the group."""

    parents: torch.Tensor | None
    """None where every row goes on by itself."""
    tokens: torch.Tensor
    done: list[bool]


class Search(Protocol):
    """The groups of one lane: as many rows each, in dense slots."""

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> None:
        """Adds a group in the next slot."""
        ...

    def close(self, slot: int) -> None:
        """Removes a group; the last one takes its slot."""
        ...

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The last token of each row and its position, [groups, rows] each."""
        ...

    def advance(self, logits: torch.Tensor) -> Step:
        """Chooses from float32 logits [groups * rows, vocabulary], which it may overwrite."""
        ...

    def results(self, slot: int) -> list[Hypothesis]:
        """The sequences of a group that is done, best first."""
        ...
