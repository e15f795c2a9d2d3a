"""Decode steps as CUDA graphs: one launch a step instead of several hundred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from serve_app.engine.decoder import Decoder, Segment
from serve_app.engine.image_attention import GroupImages
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.lane import Lane, Part
from serve_app.engine.node_cache import NodeCache

_LEAST_NODES = 128
_Key = tuple[int, int, int]
"""Version of a cache, groups, nodes."""


def bucket(size: int, least: int = 1) -> int:
    """The power of two that `size` is padded to."""
    return max(least, 1 << (size - 1).bit_length())


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a graph reads, at fixed addresses. [slots, rows] each but for images [slots]."""

    tokens: torch.Tensor
    positions: torch.Tensor
    nodes: torch.Tensor
    images: torch.Tensor

    @classmethod
    def zeros(cls, slots: int, rows: int, device: torch.device) -> _Inputs:
        tokens, positions, nodes = (torch.zeros(slots, rows, dtype=torch.int64, device=device) for _ in range(3))
        return cls(tokens, positions, nodes, torch.zeros(slots, dtype=torch.int64, device=device))


class StepGraphs:
    """A graph for each lane, number of groups and number of nodes, both rounded up to powers of two.

    Groups that only pad a step lie in slots that nobody uses; what they write there is never seen.
    Graphs hold the addresses of a lane's cache, so a cache that has grown gets new ones.
    """

    def __init__(self, decoder: Decoder, images: ImageCache, capture: bool = True) -> None:
        """`capture=False` runs the same padded steps without a graph, on any device."""
        self._decoder, self._images, self._capture = decoder, images, capture
        self._inputs: dict[int, _Inputs] = {}
        self._graphs: dict[_Key, tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._versions: WeakKeyDictionary[NodeCache, int] = WeakKeyDictionary()

    def __call__(self, part: Part, image_slots: Sequence[int]) -> torch.Tensor:
        """Returns float32 logits [rows, vocabulary], valid until the next call. `image_slots` of each group."""
        cache, (count, rows) = part.segment.cache, part.tokens.shape
        groups, extent = bucket(count), bucket(part.segment.mask.shape[-1], _LEAST_NODES)
        cache.ensure(groups, extent)
        inputs = self._inputs_of(cache, rows)
        inputs.tokens[:count].copy_(part.tokens)
        inputs.positions[:count].copy_(part.positions)
        inputs.nodes[:count].copy_(part.segment.nodes)
        inputs.images[:count].copy_(torch.tensor(image_slots))
        # Padding groups write to their first node.
        inputs.nodes[count:groups] = torch.arange(rows, device=inputs.nodes.device)
        return self._run(cache, inputs, groups, extent)[: count * rows]

    def warm_up(self, lane: Lane, groups: int, extents: Sequence[int]) -> None:
        """Captures the lane's graphs for up to `groups` groups and trees of the `extents`."""
        lane.cache.ensure(bucket(groups), max(bucket(extent, _LEAST_NODES) for extent in extents))
        inputs = self._inputs_of(lane.cache, lane.key.rows)
        for extent in {bucket(extent, _LEAST_NODES) for extent in extents}:
            for size in {bucket(count) for count in range(1, groups + 1)}:
                self._run(lane.cache, inputs, size, extent)

    def _inputs_of(self, cache: NodeCache, rows: int) -> _Inputs:
        old = self._versions.get(cache)
        if old != cache.version:
            self._inputs = {version: inputs for version, inputs in self._inputs.items() if version != old}
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] != old}
            self._inputs[cache.version] = _Inputs.zeros(cache.slots, rows, self._decoder.device)
            self._versions[cache] = cache.version
        return self._inputs[cache.version]

    def _run(self, cache: NodeCache, inputs: _Inputs, groups: int, extent: int) -> torch.Tensor:
        if not self._capture:
            return self._forward(cache, inputs, groups, extent)
        key = (cache.version, groups, extent)
        if key not in self._graphs:
            self._graphs[key] = self._captured(cache, inputs, groups, extent)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits

    def _captured(
        self, cache: NodeCache, inputs: _Inputs, groups: int, extent: int
    ) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        # Libraries allocate their workspaces on a first run, which must not happen while capturing.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward(cache, inputs, groups, extent)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._forward(cache, inputs, groups, extent)
        return graph, logits

    def _forward(self, cache: NodeCache, inputs: _Inputs, groups: int, extent: int) -> torch.Tensor:
        segment = Segment(cache, 0, inputs.nodes[:groups], cache.mask(groups, extent))
        images = GroupImages(self._images, inputs.images[:groups])
        tokens, positions = inputs.tokens[:groups].flatten(), inputs.positions[:groups].flatten()
        return self._decoder.logits(self._decoder.forward(tokens, positions, [segment], images))
