"""Which image each row of a batch asks, and the attention to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from serve_app.engine.image_cache import ImageCache


class BatchImages(Protocol):
    def attend(self, layer: int, query: torch.Tensor, context: torch.Tensor) -> None:
        """Attention of scaled queries [rows, heads, head_size] into the first rows of `context` [≥ rows, width]."""
        ...


@dataclass(frozen=True, slots=True)
class RowImages:
    """Image by image: slots in the cache, each with the places [n] of its rows, None for all rows.

    Reads keys and values where they lie.
    """

    cache: ImageCache
    rows: Sequence[tuple[int, torch.Tensor | None]]

    @classmethod
    def of(cls, cache: ImageCache, slots: Sequence[int], device: torch.device) -> RowImages:
        """`slots` of the rows' images, row by row."""
        places: dict[int, list[int]] = {}
        for row, slot in enumerate(slots):
            places.setdefault(slot, []).append(row)
        if len(places) == 1:
            return cls(cache, [(slot, None) for slot in places])
        return cls(cache, [(slot, torch.tensor(rows, device=device)) for slot, rows in places.items()])

    def attend(self, layer: int, query: torch.Tensor, context: torch.Tensor) -> None:
        for slot, places in self.rows:
            q = (query if places is None else query[places]).transpose(0, 1)  # [heads, n, head_size]
            scores = torch.bmm(q, self.cache.keys[layer][slot].transpose(1, 2))  # [heads, n, ≥ patches]
            scores[..., self.cache.patches :] = torch.finfo(scores.dtype).min
            weights = scores.softmax(-1)
            seen = torch.bmm(weights, self.cache.values[layer][slot]).transpose(0, 1).flatten(1)  # [n, width]
            if places is None:
                context[: len(seen)] = seen
            else:
                context[places] = seen.to(context.dtype)


@dataclass(frozen=True, slots=True)
class GroupImages:
    """The cache slot of each group's image, `slots` [groups]; all groups have as many rows.

    Gathers keys and values of each group in every layer: a shape that does not depend on how many
    images there are, which a CUDA graph needs.
    """

    cache: ImageCache
    slots: torch.Tensor

    def attend(self, layer: int, query: torch.Tensor, context: torch.Tensor) -> None:
        groups = len(self.slots)
        q = query.view(groups, -1, *query.shape[1:]).transpose(1, 2)  # [groups, heads, rows, head_size]
        patches = slice(self.cache.patches)
        keys, values = self.cache.keys[layer][self.slots, :, patches], self.cache.values[layer][self.slots, :, patches]
        seen = F.scaled_dot_product_attention(q, keys, values, scale=1.0)
        context[: len(query)] = seen.transpose(1, 2).flatten(2).flatten(0, 1)
