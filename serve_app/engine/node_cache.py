"""Self-attention keys and values of the beams of many groups, kept as trees.

The beams of a group share most of their past. Each token that a beam chose is a node, stored once;
a row sees the nodes of its own path through a mask. So reordering beams moves no keys and values: it
permutes the rows of the mask. Nodes that no beam descends from any more are dropped now and then.
"""

from __future__ import annotations

import itertools

import torch

from serve_app.engine.memory import zeros

_versions = itertools.count()
_FIRST_CAPACITY = 128
_ROUND = 16
"""A step reads a multiple of this many nodes, which suits the kernels."""
_DEAD_SHARE, _DEAD_LEAST = 0.5, 64
"""A tree is compacted when it has grown by this share, and by at least so many nodes, since the last time."""


class NodeCache:
    """Trees of groups with `rows` rows each, in dense slots.

    For each layer `keys` and `values` [slots, heads, nodes, head_size], and one `mask`
    [slots, rows, nodes] for all: 0 where the row sees the node, the dtype's minimum elsewhere.
    """

    def __init__(
        self, layers: int, heads: int, head_size: int, rows: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._shape = (heads, head_size)
        self.dtype = dtype
        self._rows, self._device = rows, device
        self._hidden = torch.finfo(dtype).min
        self.slots, self._nodes = 4, _FIRST_CAPACITY
        self.version = next(_versions)
        """Stands for the tensors as they are: another when they are replaced by larger ones, and in every cache."""
        self.keys = [self._zeros(self.slots, self._nodes) for _ in range(layers)]
        self.values = [self._zeros(self.slots, self._nodes) for _ in range(layers)]
        self._mask = torch.full((self.slots, rows, self._nodes), self._hidden, dtype=dtype, device=device)
        self.counts: list[int] = []
        """Nodes in use, by slot."""
        self._limits: list[int] = []

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values, self._mask))

    def open(self) -> int:
        """Adds an empty tree in the next slot."""
        slot = len(self.counts)
        if slot == self.slots:
            self._grow(2 * self.slots, self._nodes)
        self.counts.append(0)
        self._limits.append(0)
        self._mask[slot] = self._hidden
        return slot

    def close(self, slot: int) -> None:
        """Drops a tree; the last one takes its slot."""
        last, nodes, limit = len(self.counts) - 1, self.counts.pop(), self._limits.pop()
        if slot != last:
            for tensor in (*self.keys, *self.values):
                tensor[slot, :, :nodes] = tensor[last, :, :nodes]
            self._mask[slot] = self._mask[last]
            self.counts[slot], self._limits[slot] = nodes, limit

    def reserve(self, first: int, width: int) -> torch.Tensor:
        """Makes room for `width` more nodes in the slots from `first` on; returns their places [slots, width]."""
        most = max(self.counts[first:]) + width
        if most > self._nodes - _ROUND:
            self._grow(self.slots, max(most + _ROUND, self._nodes * 3 // 2))
        starts = torch.tensor(self.counts[first:], device=self._device)[:, None]
        return starts + torch.arange(width, device=self._device)

    def add_prompt(self, slot: int, tokens: int) -> None:
        """All rows of a new tree see its first `tokens` nodes."""
        self.counts[slot] = tokens
        self._limits[slot] = tokens + _DEAD_LEAST
        self._mask[slot, :, :tokens] = 0

    def ensure(self, slots: int, nodes: int) -> None:
        """Grows to at least `slots` trees of `nodes` nodes."""
        if slots > self.slots or nodes > self._nodes:
            self._grow(max(slots, self.slots), max(nodes, self._nodes))

    def mask(self, slots: int, extent: int) -> torch.Tensor:
        """[slots, rows, extent], a view; slots without a tree are masked in some way or other."""
        return self._mask[:slots, :, :extent]

    def begin_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The places [slots, rows] of the rows' newest tokens, and what each row sees [slots, rows, extent].

        May be called again before `end_step`, with the same result.
        """
        places = self.reserve(0, self._rows)
        count, most = len(self.counts), max(self.counts) + self._rows
        self._mask[:count].scatter_(2, places[..., None], 0)
        return places, self._mask[:count, :, : -(-most // _ROUND) * _ROUND]

    def end_step(self, parents: torch.Tensor | None) -> None:
        """Row r of each group goes on as row `parents[r]` was; parents [slots, rows], None for no change."""
        self.counts = [nodes + self._rows for nodes in self.counts]
        if parents is None:
            return
        mask = self._mask[: len(self.counts), :, : max(self.counts)]
        mask.copy_(mask.gather(1, parents[..., None].expand_as(mask)))
        for slot, (nodes, limit) in enumerate(zip(self.counts, self._limits, strict=True)):
            if nodes >= limit:
                self._compact(slot, nodes)

    def check_integrity(self, groups: int) -> None:
        """Every group has a tree, and every row sees at least one and only existing nodes."""
        assert len(self.counts) == len(self._limits) == groups, f"{len(self.counts)} trees for {groups} groups"
        for slot, nodes in enumerate(self.counts):
            seen = self._mask[slot] == 0
            assert not seen[:, nodes:].any(), f"slot {slot} sees nodes beyond its {nodes}"
            assert not nodes or seen.any(1).all(), f"a row of slot {slot} sees nothing"

    def _compact(self, slot: int, nodes: int) -> None:
        alive = (self._mask[slot, :, :nodes] == 0).any(0).nonzero()[:, 0]
        kept = len(alive)
        for tensor in (*self.keys, *self.values):
            tensor[slot, :, :kept] = tensor[slot].index_select(1, alive)
        mask = self._mask[slot].index_select(1, alive)
        self._mask[slot] = self._hidden
        self._mask[slot, :, :kept] = mask
        self.counts[slot] = kept
        self._limits[slot] = kept + max(_DEAD_LEAST, int(kept * _DEAD_SHARE))

    def _zeros(self, slots: int, nodes: int) -> torch.Tensor:
        # Zeros, since what a row must not see is still multiplied with its zero weight, and may be no NaN.
        heads, head_size = self._shape
        return zeros((slots, heads, nodes, head_size), self.dtype, self._device)

    def _grow(self, slots: int, nodes: int) -> None:
        """All or nothing: when memory runs out everything is as it was."""
        used, extent = len(self.counts), self._nodes

        def larger(old: torch.Tensor) -> torch.Tensor:
            new = self._zeros(slots, nodes)
            new[:used, :, :extent] = old[:used]
            return new

        mask = torch.full((slots, self._rows, nodes), self._hidden, dtype=self.dtype, device=self._device)
        mask[:used, :, :extent] = self._mask[:used]
        keys, values = [larger(old) for old in self.keys], [larger(old) for old in self.values]
        self.keys, self.values, self._mask = keys, values, mask
        self.slots, self._nodes = slots, nodes
        self.version = next(_versions)
