"""Drawing without replacement as `torch.multinomial` does, from a random stream for each group.

`torch.multinomial(p, n)` takes the n largest of p / e, where e are independent exponential numbers
(one for each category). The stream must advance by a number for each category, so that a group's
draws are those that transformers would make; but only the categories with a chance are worth a logarithm.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch


class Streams:
    """Exponential numbers from one generator for each group."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._lazy = device.type == "cpu" and _bits_make_exponentials()
        # Kept between steps: fresh pages cost as much as the numbers in them.
        self._drawn = torch.empty(0, dtype=torch.int64 if self._lazy else torch.float32, device=device)

    def generator(self, seed: int) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(seed)

    def exponentials(
        self, generators: Sequence[torch.Generator], categories: int, wanted: torch.Tensor
    ) -> torch.Tensor:
        """Advances every generator by `categories` numbers; returns those at `wanted` [groups, n], float32."""
        size = len(generators) * categories
        if self._drawn.numel() < size:
            self._drawn = torch.empty(size, dtype=self._drawn.dtype, device=self._device)
        drawn = self._drawn[:size].view(len(generators), categories)
        for row, generator in zip(drawn, generators, strict=True):
            if self._lazy:
                row.random_(generator=generator)
            else:
                row.exponential_(generator=generator)
        chosen = drawn.gather(1, wanted)
        return _from_bits(chosen) if self._lazy else chosen


def _from_bits(bits: torch.Tensor) -> torch.Tensor:
    """-log(1 - u) of the 53 low bits as a fraction u, as PyTorch's CPU generator makes its exponentials."""
    uniform = (bits & ((1 << 53) - 1)).double() * 2.0**-53
    return torch.log1p(uniform.neg_()).neg_().float()


@functools.cache
def _bits_make_exponentials() -> bool:
    """Whether this build of PyTorch makes exponentials from its random bits as `_from_bits` says.

    Both are tried; where they differ the exponentials are drawn directly, four times slower.
    """
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    direct = torch.empty(1000).exponential_(generator=a)
    bits = torch.empty(1000, dtype=torch.int64).random_(generator=b)
    return torch.equal(a.get_state(), b.get_state()) and torch.allclose(direct, _from_bits(bits), rtol=3e-7, atol=0)
