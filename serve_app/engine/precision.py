"""The number formats that a captioner can run in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from serve_app.errors import ModelUnsupported
from serve_app.types import Dtype

_NAMES = get_args(Dtype)
_FP8 = (8, 9)


@dataclass(frozen=True, slots=True)
class Precision:
    """dtype of the decoder's states, of the keys and values that it keeps, and of the vision encoder."""

    name: str
    dtype: torch.dtype
    cache_dtype: torch.dtype
    vision_dtype: torch.dtype
    int8: bool = False

    @classmethod
    def of(cls, name: str, device: torch.device) -> Precision:
        """`name`: one of `types.Dtype`.

        auto is float32 on a CPU and bfloat16, or else float16, on a GPU. int8 (CPU only) has 8-bit
        decoder weights, float32 states, and bfloat16 for attention and the vision encoder. fp8 is bfloat16 with keys
        and values kept in 8 bits (e4m3, without scales), on GPUs that convert them, of compute capability 8.9 and
        more; a CPU computes the same, slowly.
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
        if name == "fp8":
            if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FP8:
                raise ModelUnsupported("fp8 needs a GPU of compute capability 8.9 or more; use bfloat16 or float16.")
            return cls(name, torch.bfloat16, torch.float8_e4m3fn, torch.bfloat16)
        if name not in _NAMES:
            raise ModelUnsupported(f"There is no dtype {name!r}; use {', '.join(_NAMES[:-1])} or {_NAMES[-1]}.")
        dtype: torch.dtype = getattr(torch, name)
        return cls(name, dtype, dtype, dtype)

    @property
    def attention(self) -> torch.dtype:
        """In which attention is computed."""
        return self.dtype if self.cache_dtype == torch.float8_e4m3fn else self.cache_dtype


def cast(module: nn.Module, dtype: torch.dtype) -> Any:
    """The module itself with its tensors in `dtype`."""
    tensors = (*module.parameters(), *module.buffers())
    same = all(each.dtype == dtype for each in tensors if each.is_floating_point())
    return module if same else nn.Module.to(module, dtype=dtype)


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the GPU computes in bfloat16 itself; T4 and V100 only emulate it, slowly."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
