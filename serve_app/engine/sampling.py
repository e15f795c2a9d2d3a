"""Drawing without replacement as `torch.multinomial` does, from a random stream for each group.

`torch.multinomial(p, n)` takes the n largest of p / e, where e are independent exponential numbers, one for each
category. On a CPU the numbers are those of transformers' stream: it must advance by one for each category, but only
the categories with a chance are worth a logarithm. On a GPU they come from a counter instead: the number of a token is
a function of seed, row, position and token, and nothing else has to be drawn.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows of a group that draw at this step from one generator: (block, row) of each."""

    generator: torch.Generator
    rows: Sequence[tuple[int, int]]


class Streams:
    """Exponential numbers from one generator for each group, on the host."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._lazy = _bits_make_exponentials()
        # Kept between steps: fresh pages cost as much as the numbers in them.
        self._drawn = torch.empty(0, dtype=torch.int64 if self._lazy else torch.float32)

    def exponentials(self, draws: Sequence[Draw], tokens: torch.Tensor) -> torch.Tensor:
        """Advances every generator by rows × vocabulary numbers; returns those of `tokens` [blocks, rows, n], float32.

        Rows that draw nothing have 1.
        """
        found = torch.ones(tokens.shape)
        for draw in draws:
            size = len(draw.rows) * self._vocabulary
            if self._drawn.numel() < size:
                self._drawn = torch.empty(size, dtype=self._drawn.dtype)
            drawn = self._drawn[:size]
            if self._lazy:
                drawn.random_(generator=draw.generator)
            else:
                drawn.exponential_(generator=draw.generator)
            numbers = drawn.view(len(draw.rows), self._vocabulary)
            block, first = draw.rows[0]
            if draw.rows[-1] == (block, first + len(draw.rows) - 1):
                rows = slice(first, first + len(draw.rows))
                chosen = numbers.gather(1, tokens[block, rows])
                found[block, rows] = _from_bits(chosen) if self._lazy else chosen
                continue
            for number, place in enumerate(draw.rows):
                chosen = numbers[number].gather(0, tokens[place])
                found[place] = _from_bits(chosen) if self._lazy else chosen
        return found


def stream(seed: int, row: int) -> int:
    """Key, as an int64, of the numbers that a row of a group draws, wherever the row lies."""
    return _signed(_finalized(_finalized(seed) + row * _GOLDEN))


def counted(keys: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Exponential numbers, float32, for `tokens` [blocks, rows, n] at `positions` [blocks, rows] of the streams `keys`
    [blocks, rows]: a function of these, whatever else is drawn.

    Their bits are SplitMix64's (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014),
    each by its number in the stream.
    """
    numbers = torch.add(tokens, positions[..., None], alpha=1 << TOKEN_BITS)
    bits = _mixed(torch.add(keys[..., None], numbers, alpha=GOLDEN))
    uniform = ((bits >> 41) & ((1 << 23) - 1)).float().add_(0.5).mul_(2.0**-23)  # between 0 and 1, and neither
    return uniform.log_().neg_()


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


TOKEN_BITS = 20
"""A vocabulary has at most 2^20 tokens."""
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
GOLDEN, FIRST, SECOND = _signed(_GOLDEN), _signed(_FIRST), _signed(_SECOND)


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finalizer of int64s, which wrap around; their shifts to the right are masked to be logical."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * FIRST
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * SECOND
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _finalized(x: int) -> int:
    """The same of an unsigned number."""
    x %= 1 << 64
    x = (x ^ (x >> 30)) * _FIRST % (1 << 64)
    x = (x ^ (x >> 27)) * _SECOND % (1 << 64)
    return x ^ (x >> 31)


def _from_bits(bits: torch.Tensor) -> torch.Tensor:
    """-log(1 - u) of the 53 low bits as a fraction u, as PyTorch's CPU generator makes its exponentials."""
    uniform = (bits & ((1 << 53) - 1)).double() * 2.0**-53
    return torch.log1p(uniform.neg_()).neg_().float()


@functools.cache
def _bits_make_exponentials() -> bool:
    """Whether this build of PyTorch makes exponentials from its random bits as `_from_bits` says.

    Both are tried; if they differ, the exponentials are drawn directly, four times slower.
    """
    a, b = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    direct = torch.empty(1000).exponential_(generator=a)
    bits = torch.empty(1000, dtype=torch.int64).random_(generator=b)
    return torch.equal(a.get_state(), b.get_state()) and torch.allclose(direct, _from_bits(bits), rtol=3e-7, atol=0)
