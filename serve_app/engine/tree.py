"""Self-attention keys and values of the beams of many groups, kept as trees.

The beams of a group share most of their past. Each token that a beam chose is a node, stored once, and a row sees the
nodes of its own path. So reordering beams moves no keys and values: it permutes what the rows see. A node that no row
sees is free, and a step writes its tokens to the first free nodes of each block.
"""

from __future__ import annotations

import copy

import torch

from serve_app.engine.memory import rounded, zeros
from serve_app.errors import GenerationFailed

LEAST_NODES = 128
NO_SPACE = GenerationFailed("The request's beams need more cache than max_cache_bytes allows.")


class Tree:
    """Nodes of `blocks` blocks of `rows` rows each.

    For each layer `states` [2, blocks, heads, nodes, head_size], keys and values, and `seen` [blocks, rows, nodes]:
    whether the row sees the node. All layers have at least `nodes` nodes.
    """

    def __init__(
        self,
        layers: int,
        heads: int,
        head_size: int,
        blocks: int,
        rows: int,
        dtype: torch.dtype,
        device: torch.device,
        max_bytes: int,
    ) -> None:
        self.blocks, self.rows, self.dtype = blocks, rows, dtype
        self._shape, self._device = (heads, head_size), device
        self.node_bytes = 2 * layers * heads * head_size * dtype.itemsize
        self.max_nodes = max_bytes // (blocks * self.node_bytes)
        """Of a block, so that all blocks together stay within `max_bytes`."""
        self.nodes = min(LEAST_NODES, self.max_nodes)
        self.generation = 0
        """Changes when tensors are replaced by larger ones."""
        self.states = [self._zeros(self.nodes) for _ in range(layers)]
        self._order = torch.arange(self.max_nodes, 0, -1, dtype=torch.int32, device=device)
        self._blocks = torch.arange(blocks, device=device)[:, None]
        self.seen = torch.zeros(blocks, rows, self.nodes, dtype=torch.bool, device=device)

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.states, self.seen))

    def ensure(self, nodes: int) -> None:
        """Grows to at least `nodes` nodes a block, by doubling, one layer after the other.

        Raises `GenerationFailed` beyond `max_nodes`, and torch's `OutOfMemoryError`; all that was written is still
        there, and it can be called again.
        """
        if nodes <= self.nodes:
            return
        if nodes > self.max_nodes:
            raise NO_SPACE
        wanted = self.nodes
        while wanted < nodes:
            wanted = min(2 * wanted, self.max_nodes)
        self.generation += 1
        for layer, old in enumerate(self.states):
            if old.shape[3] < wanted:
                new = self._zeros(wanted)
                new[:, :, :, : self.nodes] = old[:, :, :, : self.nodes]
                self.states[layer] = new
        seen = torch.zeros(self.blocks, self.rows, wanted, dtype=torch.bool, device=self._device)
        seen[..., : self.nodes] = self.seen
        self.seen, self.nodes = seen, wanted

    def move(self, block: int, to: int, nodes: int) -> None:
        """Copies the first `nodes` nodes of a block to another one, with what its rows see."""
        for states in self.states:
            states[:, to, :, :nodes] = states[:, block, :, :nodes]
        self.seen[to] = self.seen[block]

    def part(self, block: int) -> Tree:
        """The keys and values of one block, as a tree of one block that shares them."""
        part = copy.copy(self)
        part.states = [states[:, block : block + 1] for states in self.states]
        return part

    def free(self, blocks: int, extent: int) -> torch.Tensor:
        """The first `rows` free nodes of each of the first blocks, [blocks, rows]; `extent` nodes hold so many."""
        taken = self.seen[:blocks, :, :extent].any(1)
        return self._order[-extent:].masked_fill(taken, 0).topk(self.rows, dim=1).indices

    def write(self, layer: int, nodes: torch.Tensor, states: torch.Tensor) -> None:
        """Writes the rows' keys and values [blocks, rows, 2, heads, head_size] to `nodes` [blocks, rows]."""
        self.states[layer][:, self._blocks[: len(nodes)], :, nodes] = rounded(states, self.dtype)

    def _zeros(self, nodes: int) -> torch.Tensor:
        # Zeros, since what a row must not see is still multiplied with its zero weight, and may be no NaN.
        heads, head_size = self._shape
        return zeros((2, self.blocks, heads, nodes, head_size), self.dtype, self._device)
