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
class _Buffers:
    """What a graph reads and writes, at fixed addresses.

    [slots, rows] each but for images [slots] and logits [slots * rows, vocabulary].
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    nodes: torch.Tensor
    images: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def zeros(cls, slots: int, rows: int, vocabulary: int, device: torch.device) -> _Buffers:
        tokens, positions, nodes = (torch.zeros(slots, rows, dtype=torch.int64, device=device) for _ in range(3))
        images = torch.zeros(slots, dtype=torch.int64, device=device)
        return cls(tokens, positions, nodes, images, torch.zeros(slots * rows, vocabulary, device=device))


class StepGraphs:
    """A graph for each lane, number of groups and number of nodes, both rounded up to powers of two.

    Groups that only pad a step lie in slots that nobody uses; what they write there is never seen.
    Graphs hold the addresses of a lane's cache, so a cache that has grown gets new ones.
    """

    def __init__(self, decoder: Decoder, images: ImageCache, capture: bool = True) -> None:
        """`capture=False` runs the same padded steps without a graph, on any device."""
        self._decoder, self._images, self._capture = decoder, images, capture
        self._buffers: dict[int, _Buffers] = {}
        self._graphs: dict[_Key, torch.cuda.CUDAGraph] = {}
        # One pool for all: a graph's own memory is free again when it has run, since its result lies elsewhere.
        self._pool = torch.cuda.graph_pool_handle() if capture else None
        self._stream: torch.cuda.Stream | None = None
        self._versions: WeakKeyDictionary[NodeCache, int] = WeakKeyDictionary()

    def __call__(self, part: Part, image_slots: Sequence[int]) -> torch.Tensor:
        """Returns float32 logits [rows, vocabulary], valid until the next call. `image_slots` of each group."""
        cache, (count, rows) = part.segment.cache, part.tokens.shape
        groups, extent = bucket(count), bucket(part.segment.mask.shape[-1], _LEAST_NODES)
        cache.ensure(groups, extent)
        buffers = self._buffers_of(cache, rows)
        buffers.tokens[:count].copy_(part.tokens)
        buffers.positions[:count].copy_(part.positions)
        buffers.nodes[:count].copy_(part.segment.nodes)
        buffers.images[:count].copy_(torch.tensor(image_slots))
        # Padding groups write to their first node.
        buffers.nodes[count:groups] = torch.arange(rows, device=buffers.nodes.device)
        return self._run(cache, buffers, groups, extent)[: count * rows]

    def warm_up(self, lane: Lane, groups: int, extents: Sequence[int]) -> None:
        """Captures the lane's graphs for up to `groups` groups and trees of the `extents`."""
        lane.cache.ensure(bucket(groups), max(bucket(extent, _LEAST_NODES) for extent in extents))
        buffers = self._buffers_of(lane.cache, lane.key.rows)
        for extent in {bucket(extent, _LEAST_NODES) for extent in extents}:
            for size in {bucket(count) for count in range(1, groups + 1)}:
                self._run(lane.cache, buffers, size, extent)

    def _buffers_of(self, cache: NodeCache, rows: int) -> _Buffers:
        if self._versions.get(cache) != cache.version:
            self._versions[cache] = cache.version
            living = set(self._versions.values())
            self._buffers = {version: buffers for version, buffers in self._buffers.items() if version in living}
            self._graphs = {key: graph for key, graph in self._graphs.items() if key[0] in living}
            if self._capture and not self._graphs:
                self._pool = torch.cuda.graph_pool_handle()
            self._buffers[cache.version] = _Buffers.zeros(
                cache.slots, rows, self._decoder.vocabulary, self._decoder.device
            )
        return self._buffers[cache.version]

    def _run(self, cache: NodeCache, buffers: _Buffers, groups: int, extent: int) -> torch.Tensor:
        if not self._capture:
            self._forward(cache, buffers, groups, extent)
            return buffers.logits
        key = (cache.version, groups, extent)
        if key not in self._graphs:
            self._graphs[key] = self._captured(cache, buffers, groups, extent)
        self._graphs[key].replay()
        return buffers.logits

    def _captured(self, cache: NodeCache, buffers: _Buffers, groups: int, extent: int) -> torch.cuda.CUDAGraph:
        # Libraries allocate a stream's workspaces on a first run, which must not happen while capturing.
        stream = self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._forward(cache, buffers, groups, extent)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            self._forward(cache, buffers, groups, extent)
        return graph

    def _forward(self, cache: NodeCache, buffers: _Buffers, groups: int, extent: int) -> None:
        segment = Segment(cache, 0, buffers.nodes[:groups], cache.mask(groups, extent))
        images = GroupImages(self._images, buffers.images[:groups])
        tokens, positions = buffers.tokens[:groups].flatten(), buffers.positions[:groups].flatten()
        states = self._decoder.forward(tokens, positions, [segment], images)
        buffers.logits[: len(states)].copy_(self._decoder.logits(states))
