"""Attention of the decoder's rows in PyTorch's own operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch.nn import functional as F

from serve_app.engine.image_cache import ImageCache
from serve_app.engine.kernels import Looks, Sight
from serve_app.engine.linear import Linear
from serve_app.engine.tree import Tree


class TorchKernels:
    """The reference."""

    def __init__(self) -> None:
        self._known: tuple[Sequence[int] | None, Images] | None = None

    def steps(self, batch: Any, end: int) -> None:
        return None

    def sight(self, looks: Looks, dtype: torch.dtype) -> Sight:
        assert looks.seen is not None
        return _TorchSight(looks.tree, looks.nodes, looks.seen, self._images(looks), dtype)

    def add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Any) -> torch.Tensor:
        result: torch.Tensor = norm(x.add_(residual))
        return result

    def norm_linear(
        self, x: torch.Tensor, residual: torch.Tensor, norm: Any, linear: Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        normed = self.add_norm(x, residual, norm)
        return linear(normed), normed

    def _images(self, looks: Looks) -> Images:
        if looks.known is None:
            return GatheredImages.of(looks.images, looks.slots, looks.pictures)
        if self._known is None or self._known[0] is not looks.known:  # the same from step to step
            self._known = looks.known, RowImages.of(looks.images, looks.known)
        return self._known[1]


class Images(Protocol):
    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """Attention of scaled queries [rows, heads, head_size]; returns [rows, width]."""
        ...


class _TorchSight:
    def __init__(self, tree: Tree, nodes: torch.Tensor, seen: torch.Tensor, images: Images, dtype: torch.dtype) -> None:
        self._tree, self._nodes, self._seen, self._images, self._dtype = tree, nodes, seen, images, dtype
        self._heads, self._size = tree.states[0].shape[2], tree.states[0].shape[4]
        self._mask: torch.Tensor | None = None

    def attend_past(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        blocks, rows, extent = self._seen.shape
        heads = qkv.view(blocks, rows, 3, self._heads, self._size)
        self._tree.write(layer, self._nodes, heads[:, :, 1:])
        # [blocks, heads, extent, head_size] each
        keys, values = self._tree.states[layer][:, :blocks, :, :extent].to(qkv.dtype)
        mask = self._mask_of(qkv.dtype)
        return self._joined(_attend(heads[:, :, 0].transpose(1, 2), keys, values, mask))

    def attend_image(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        return self._images.attend(layer, query.view(len(query), self._heads, self._size)).to(self._dtype)

    def _mask_of(self, dtype: torch.dtype) -> torch.Tensor:
        """[blocks, 1, rows, extent]: 0 where a row sees the node, the dtype's minimum elsewhere."""
        if self._mask is None:
            mask = torch.zeros(self._seen.shape, dtype=dtype, device=self._seen.device)
            self._mask = mask.masked_fill_(~self._seen, torch.finfo(dtype).min)[:, None]
        return self._mask

    def _joined(self, context: torch.Tensor) -> torch.Tensor:
        """[blocks, heads, rows, head_size] → [rows, width]; on a GPU the same memory, as attention lays it out."""
        return context.transpose(1, 2).reshape(-1, self._heads * self._size).to(self._dtype)


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

    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        context = query.new_empty(len(query), query[0].numel())
        for slot, places in self.rows:
            q = (query if places is None else query[places]).transpose(0, 1)  # [heads, n, head_size]
            keys, values = self.cache.states[layer][slot].to(q.dtype)  # [heads, ≥ patches, head_size] each
            scores = torch.bmm(q, keys.transpose(1, 2))  # [heads, n, ≥ patches]
            scores[..., self.cache.patches :] = torch.finfo(scores.dtype).min
            seen = torch.bmm(scores.softmax(-1), values).transpose(0, 1).flatten(1)  # [n, width]
            if places is None:
                return seen
            context[places] = seen
        return context


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
        """`slots` of the rows [blocks, rows]; `pictures` is 1 if a block has one image."""
        return cls(cache, slots.amax(1) if pictures == 1 else slots.flatten())  # rows without a group have 0

    def attend(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        slots = self.slots
        q = query.view(len(slots), -1, *query.shape[1:]).transpose(1, 2)  # [slots, heads, rows, head_size]
        states = self.cache.states[layer][slots][:, :, :, : self.cache.patches].to(query.dtype)
        seen = F.scaled_dot_product_attention(q, states[:, 0], states[:, 1], scale=1.0)
        return seen.transpose(1, 2).reshape(len(query), -1)
