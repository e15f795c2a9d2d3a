"""Groups of one kind and number of rows: what they search for and what they remember, slot by slot."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serve_app.engine.beam_search import BeamSearch
from serve_app.engine.decoder import Decoder, Segment
from serve_app.engine.node_cache import NodeCache
from serve_app.engine.scheduler import Group
from serve_app.engine.search import Hypothesis, Search, Step
from serve_app.engine.token_search import TokenSearch


@dataclass(frozen=True, slots=True)
class LaneKey:
    """Groups with the same key run in the same lane."""

    beams: bool
    rows: int

    @classmethod
    def of(cls, group: Group) -> LaneKey:
        return cls(group.parameters.num_beams > 1, group.rows)


@dataclass(frozen=True, slots=True)
class Part:
    """A lane's share of a forward pass. tokens and positions [slots, width]; groups row by row."""

    tokens: torch.Tensor
    positions: torch.Tensor
    segment: Segment
    groups: list[Group]


class Lane:
    """Keeps the slots of a search and of a node cache in step: group i is slot i of both."""

    def __init__(self, key: LaneKey, decoder: Decoder, end: int) -> None:
        """`end`: id of the token that ends a text."""
        d = decoder
        self.key = key
        self.groups: list[Group] = []
        self.cache = NodeCache(d.layers, d.heads, d.head_size, key.rows, d.cache_dtype, d.device)
        self._search: Search = (BeamSearch if key.beams else TokenSearch)(key.rows, d.vocabulary, end, d.device)
        self._device = d.device
        self._hidden = torch.finfo(d.cache_dtype).min

    def open(self, group: Group) -> None:
        """Adds a group in the next slot. Its prompt has still to be run."""
        self.groups.append(group)
        self.cache.open()
        self._search.open(group.prompt, group.parameters, group.seed)

    def close(self, slot: int) -> Group:
        """Removes a group; the last one takes its slot."""
        self._search.close(slot)
        self.cache.close(slot)
        group, last = self.groups[slot], self.groups.pop()
        if last is not group:
            self.groups[slot] = last
        return group

    def prompts(self, first: int) -> Part | None:
        """The prompts of the groups from slot `first` on but for their last tokens; None when nothing is left."""
        groups = self.groups[first:]
        prompts = [group.prompt[:-1] for group in groups]
        width = max(map(len, prompts))
        if width == 0:
            return None
        tokens = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=self._device)
        positions = torch.arange(width, device=self._device).expand(len(groups), width)
        causal = torch.full((width, width), self._hidden, device=self._device).triu(1)
        mask = causal.to(self.cache.dtype).expand(len(groups), width, width)
        segment = Segment(self.cache, first, self.cache.reserve(first, width), mask)
        return Part(tokens, positions, segment, [group for group in groups for _ in range(width)])

    def end_prompts(self, first: int) -> None:
        """The prompts from slot `first` on have been run."""
        for slot in range(first, len(self.groups)):
            self.cache.add_prompt(slot, len(self.groups[slot].prompt) - 1)

    def newest(self) -> Part:
        """The last token of every row. May be asked for again until `advance`."""
        places, mask = self.cache.begin_step()
        tokens, positions = self._search.newest()
        rows = [group for group in self.groups for _ in range(self.key.rows)]
        return Part(tokens, positions, Segment(self.cache, 0, places, mask), rows)

    def advance(self, logits: torch.Tensor) -> Step:
        """Chooses every row's next token from float32 logits [rows, vocabulary]."""
        step = self._search.advance(logits)
        self.cache.end_step(step.parents)
        return step

    def results(self, slot: int) -> list[Hypothesis]:
        return self._search.results(slot)
