"""Memory that is reserved at once and used bit by bit, and the formats in it."""

from __future__ import annotations

import math

import numpy as np
import torch

_CACHE_LINE = 64
"""Where PyTorch's own tensors begin, and vector loads like to."""


def rounded(states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Keys and values in the format that they are kept in; FP8 ends at its largest number instead of at NaN."""
    if dtype == torch.float8_e4m3fn:
        largest = torch.finfo(dtype).max
        states = states.clamp(-largest, largest)
    return states.to(dtype)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros that take memory on a CPU only where something is written; `torch.zeros` writes them all."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    pages = np.zeros(size + _CACHE_LINE, dtype=np.uint8)
    start = -pages.ctypes.data % _CACHE_LINE
    return torch.from_numpy(pages[start : start + size]).view(dtype).view(shape)
