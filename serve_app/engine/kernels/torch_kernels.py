"""Attention of the decoder's rows in PyTorch's own operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch.nn import functional as F

from serve_app.engine.image_cache import ImageCache
from serve_app.engine.kernels import Looks, Sight
from serve_app.engine.tree import Tree


class TorchKernels:
    """The reference."""

    def __init__(self) -> None:
        self._known: tuple[Sequence[int] | None, Images] | None = None

    def steps(self, batch: Any, end: int) -> None:
        return None

    def sight(self, looks: Looks, dtype: torch.dtype) -> Sight:
        tree, seen = looks.tree, looks.seen
        assert seen is not None
        hidden = torch.finfo(tree.dtype).min
        mask = torch.zeros(seen.shape, dtype=tree.dtype, device=seen.device).masked_fill_(~seen, hidden)
        width = tree.keys[0].shape[1] * tree.keys[0].shape[3]
        context = torch.empty(seen.shape[0] * seen.shape[1], width, dtype=dtype, device=seen.device)
        return _TorchSight(tree, looks.nodes, mask[:, None], self._images(looks), context)

    def add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Any) -> torch.Tensor:
        result: torch.Tensor = norm(x.add_(residual))
        return result

    def _images(self, looks: Looks) -> Images:
        if looks.known is None:
            return GatheredImages.of(looks.images, looks.slots, looks.pictures)
        if self._known is None or self._known[0] is not looks.known:  # the same from step to step
            self._known = looks.known, RowImages.of(looks.images, looks.known)
        return self._known[1]


class Images(Protocol):
    def attend(self, layer: int, query: torch.Tensor, context: torch.Tensor) -> None:
        """Attention of scaled queries [rows, heads, head_size] into `context` [rows, width]."""
        ...


@dataclass(frozen=True, slots=True)
class _TorchSight:
    tree: Tree
    nodes: torch.Tensor
    mask: torch.Tensor
    """[blocks, 1, rows, extent]: 0 where a row sees the node, the dtype's minimum elsewhere."""
    images: Images
    context: torch.Tensor
    """[rows, width]: what every attention returns, one after the other."""

    def attend_past(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        blocks, rows = self.nodes.shape
        heads, extent = self.tree.keys[layer].shape[1], self.mask.shape[-1]
        q, k, v = qkv.view(blocks, rows, 3, heads, -1).unbind(2)
        self.tree.write(layer, self.nodes, k, v)
        keys, values = self.tree.keys[layer][:blocks, :, :extent], self.tree.values[layer][:blocks, :, :extent]
        seen = _attend(q.transpose(1, 2), keys, values, self.mask)  # [blocks, heads, rows, head_size]
        self.context.view(blocks, rows, heads, -1).copy_(seen.transpose(1, 2))
        return self.context

    def attend_image(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        self.images.attend(layer, query.view(len(query), self.tree.keys[layer].shape[1], -1), self.context)
        return self.context


def _attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if q.dtype == torch.float32 and q.device.type == "cpu":
        # Faster than the fused kernel, which wins in bfloat16 by a fifth.
        weights = torch.matmul(q, keys.transpose(-1, -2)).add_(mask).softmax(-1)
        return torch.matmul(weights, values)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=1.0)


@dataclass(frozen=True, slots=True)
class RowImages:
    """Image by image: slots in the cache, each with the places [n] of its rows, None for all rows.

    Reads keys and values where they lie.
    """

    cache: ImageCache
    rows: Sequence[tuple[int, torch.Tensor | None]]

    @classmethod
    def of(cls, cache: ImageCache, slots: Sequence[int]) -> Self:
        """`slots` of the rows' images, row by row."""
        places: dict[int, list[int]] = {}
        for row, slot in enumerate(slots):
            places.setdefault(slot, []).append(row)
        if len(places) == 1:
            return cls(cache, [(slot, None) for slot in places])
        return cls(cache, [(slot, torch.tensor(rows)) for slot, rows in places.items()])

    def attend(self, layer: int, query: torch.Tensor, context: torch.Tensor) -> None:
        for slot, places in self.rows:
            q = (query if places is None else query[places]).transpose(0, 1)  # [heads, n, head_size]
            scores = torch.bmm(q, self.cache.keys[layer][slot].transpose(1, 2))  # [heads, n, ≥ patches]
            scores[..., self.cache.patches :] = torch.finfo(scores.dtype).min
            weights = scores.softmax(-1)
            seen = torch.bmm(weights, self.cache.values[layer][slot]).transpose(0, 1).flatten(1)  # [n, width]
            if places is None:
                context.copy_(seen)
            else:
                context[places] = seen.to(context.dtype)


@dataclass(frozen=True, slots=True)
class GatheredImages:
    """The cache slot of the image of each block, or of each row, `slots` [n].

    Gathers keys and values of each block, or of each row, in every layer: a shape that does not depend on how many
    images there are, which a CUDA graph needs.
    """

    cache: ImageCache
    slots: torch.Tensor

    @classmethod
    def of(cls, cache: ImageCache, slots: torch.Tensor, pictures: int) -> Self:
        """`slots` of the rows [blocks, rows]; `pictures` is 1 where a block has one image."""
        return cls(cache, slots.amax(1) if pictures == 1 else slots.flatten())  # rows without a group have 0

    def attend(self, layer: int, query: torch.Tensor, context: torch.Tensor) -> None:
        slots = self.slots
        q = query.view(len(slots), -1, *query.shape[1:]).transpose(1, 2)  # [slots, heads, rows, head_size]
        patches = slice(self.cache.patches)
        keys, values = self.cache.keys[layer][slots, :, patches], self.cache.values[layer][slots, :, patches]
        seen = F.scaled_dot_product_attention(q, keys, values, scale=1.0)
        context.copy_(seen.transpose(1, 2).flatten(2).flatten(0, 1))
