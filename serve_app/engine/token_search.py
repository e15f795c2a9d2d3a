"""Greedy search and plain sampling for many groups at once, by the rules of transformers' `GenerationMixin._sample`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from serve_app.engine.parameters import SearchParameters
from serve_app.engine.search import Hypothesis, Step
from serve_app.engine.search_groups import SearchGroups


class TokenSearch:
    """`rows` independent sequences for each group."""

    def __init__(self, rows: int, vocabulary: int, end: int, device: torch.device) -> None:
        self._groups = SearchGroups(rows, vocabulary, end, device)
        self._groups.tensors.add("ended", (rows,), torch.bool)
        self._groups.tensors.add("ended_length", (rows,), torch.int64)

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> None:
        self._groups.open(prompt, parameters, seed)

    def close(self, slot: int) -> None:
        self._groups.close(slot)

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._groups.newest()

    def advance(self, logits: torch.Tensor) -> Step:
        g, t = self._groups, self._groups.tensors
        values, tokens = g.candidates(logits)
        places = values.argmax(-1)  # [groups, rows]
        sampled = [slot for slot, p in enumerate(g.parameters) if p.do_sample]
        if sampled:
            rows = torch.tensor(sampled, device=g.device)
            places[rows] = self._draw(values[rows], tokens[rows], [g.generators[slot] for slot in sampled])
        token = tokens.gather(2, places[..., None])[..., 0]

        g.write(t["sequences"], token)
        g.lengths = [length + 1 for length in g.lengths]
        at_limit = [length >= p.max_length for length, p in zip(g.lengths, g.parameters, strict=True)]
        ends = ((token == g.end) | g.bools(at_limit)) & ~t["ended"]
        lengths = g.length().expand_as(token)
        t["ended_length"].copy_(torch.where(ends, lengths, t["ended_length"]))
        t["ended"].logical_or_(ends)
        done: list[bool] = t["ended"].all(1).tolist()
        return Step(None, token, done)

    def results(self, slot: int) -> list[Hypothesis]:
        t = self._groups.tensors
        rows, lengths = t["sequences"][slot].tolist(), t["ended_length"][slot].tolist()
        return [Hypothesis(row[:length], None) for row, length in zip(rows, lengths, strict=True)]

    def _draw(self, values: torch.Tensor, tokens: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """One token for each row; the rows of a group share its stream. [groups, rows] places."""
        g = self._groups
        offsets = torch.arange(g.rows, device=g.device)[:, None] * g.vocabulary
        numbers = g.streams.exponentials(generators, g.rows * g.vocabulary, (tokens + offsets).flatten(1))
        return (values.softmax(-1) / numbers.view_as(values)).argmax(-1)
