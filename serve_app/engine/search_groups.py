"""What every search keeps for each of its groups, slot by slot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from serve_app.engine.parameters import SearchParameters
from serve_app.engine.processors import RowRules
from serve_app.engine.sampling import Streams
from serve_app.engine.slots import SlotTensors


class SearchGroups:
    """Parameters, random streams and sequences of groups with `rows` rows each."""

    def __init__(self, rows: int, vocabulary: int, end: int, device: torch.device) -> None:
        self.rows, self.vocabulary, self.end, self.device = rows, vocabulary, end, device
        self.streams = Streams(device)
        self.parameters: list[SearchParameters] = []
        self.generators: list[torch.Generator] = []
        self.prompt_lengths: list[int] = []
        self.lengths: list[int] = []
        self.tensors = SlotTensors(device)
        self.tensors.add("sequences", (rows, 1), torch.int64)
        self._rules: RowRules | None = None

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> int:
        self.parameters.append(parameters)
        self.generators.append(self.streams.generator(seed))
        self.prompt_lengths.append(len(prompt))
        self.lengths.append(len(prompt))
        self.tensors.widen("sequences", parameters.max_length)
        slot = self.tensors.open()
        # The start token behind the end of a row is what the penalties expect there.
        self.tensors["sequences"][slot] = prompt[0]
        self.tensors["sequences"][slot, :, : len(prompt)] = torch.tensor(prompt, device=self.device)
        self._rules = None
        return slot

    def close(self, slot: int) -> None:
        self.tensors.close(slot)
        lists: tuple[list[Any], ...] = (self.parameters, self.generators, self.prompt_lengths, self.lengths)
        for values in lists:
            last = values.pop()
            if slot < len(values):
                values[slot] = last
        self._rules = None

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        at = (self.length() - 1).expand(-1, self.rows)
        return self.tensors["sequences"].gather(2, at[..., None])[..., 0], at

    def candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids of the tokens worth a look, [groups, rows, n] each."""
        if self._rules is None:
            self._rules = RowRules(self.parameters, self.rows, self.vocabulary, self.end, self.device)
        # Wider than any row, so that n-grams and penalties see all of it.
        sequences = self.tensors["sequences"][..., : max(self.lengths)].flatten(0, 1)
        lengths = self.length()[:, 0].repeat_interleave(self.rows)
        values, tokens = self._rules.candidates(self._rules.process(scores, sequences, lengths))
        shape = (self.tensors.count, self.rows, -1)
        return values.view(shape), tokens.view(shape)

    def write(self, sequences: torch.Tensor, tokens: torch.Tensor) -> None:
        """Appends `tokens` [groups, rows] at each group's length to `sequences` [groups, rows, positions]."""
        at = self.length()[..., None].expand(*tokens.shape, 1)
        sequences.scatter_(2, at, tokens[..., None])

    def floats(self, values: Sequence[float]) -> torch.Tensor:
        """[groups, 1] float32."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None]

    def length(self) -> torch.Tensor:
        """[groups, 1] tokens of each row so far."""
        return torch.tensor(self.lengths, device=self.device)[:, None]

    def bools(self, values: Sequence[bool]) -> torch.Tensor:
        """[groups, 1]."""
        return torch.tensor(values, device=self.device)[:, None]
