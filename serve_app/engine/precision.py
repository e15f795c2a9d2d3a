"""The number formats that a captioner can run in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from serve_app.errors import ModelUnsupported


@dataclass(frozen=True, slots=True)
class Precision:
    """dtype of the decoder's states, of the keys and values it keeps, and of the vision encoder."""

    name: str
    dtype: torch.dtype
    cache_dtype: torch.dtype
    vision_dtype: torch.dtype
    int8: bool = False

    @classmethod
    def of(cls, name: str, device: torch.device) -> Precision:
        """`name`: auto, float32, bfloat16, float16 or int8.

        auto is float32 on a CPU and bfloat16, or else float16, on a GPU. int8 (CPU only) has 8-bit
        decoder weights, float32 states, and bfloat16 for attention and the vision encoder.
        Raises `ModelUnsupported`.
        """
        if name == "auto":
            name = "float32"
            if device.type == "cuda":
                name = "bfloat16" if _has_bfloat16(device) else "float16"
        if name == "int8":
            if device.type != "cpu":
                raise ModelUnsupported("int8 runs on CPUs only; use bfloat16 or float16 on a GPU.")
            return cls(name, torch.float32, torch.bfloat16, torch.bfloat16, int8=True)
        if name not in ("float32", "bfloat16", "float16"):
            raise ModelUnsupported(f"There is no dtype {name!r}; use auto, float32, bfloat16, float16 or int8.")
        dtype: torch.dtype = getattr(torch, name)
        return cls(name, dtype, dtype, dtype)


def cast(module: nn.Module, dtype: torch.dtype) -> Any:
    """The module itself with its tensors in `dtype`."""
    tensors = (*module.parameters(), *module.buffers())
    same = all(each.dtype == dtype for each in tensors if each.is_floating_point())
    return module if same else nn.Module.to(module, dtype=dtype)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU computes in bfloat16 itself; T4 and V100 only emulate it, slowly."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
