"""Linear layers laid out once for the device and precision that they run in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from serve_app.errors import ModelUnsupported

Linear = Callable[[torch.Tensor], torch.Tensor]
"""[rows, in] → [rows, out] of the same dtype."""

ROW_MULTIPLE = 8
"""Rows of a block are a multiple of this: oneDNN's kernels for 7 rows take longer than those for 8."""


def build(
    layers: nn.Linear | list[nn.Linear], *, scales: Sequence[float] = (), int8: bool = False, gelu: bool = False
) -> Linear:
    """Prepares one layer, or several that share their input as one.

    `scales` multiply the layers' results; `gelu` puts an exact GELU behind them. The layers themselves lose their
    weights, so that no second copy is held.

    On a CPU the weights are repacked for oneDNN, which reads them two to three times as fast as
    `F.linear` at the few rows of a decode step. Raises `ModelUnsupported` for int8 if the CPU
    lacks its instructions.
    """
    parts = layers if isinstance(layers, list) else [layers]
    factors = list(scales) or [1.0] * len(parts)
    weight = _joined([part.weight.detach() for part in parts], factors)
    bias = _joined([part.bias.detach() for part in parts], factors)
    for part in parts:
        part.weight = part.bias = None  # type: ignore[assignment]
    if int8:
        return _Int8(weight.float(), bias.float(), gelu)
    packs = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    if weight.device.type == "cpu" and torch._C._has_mkldnn and packs:
        return _Packed(weight, bias, gelu)
    return Plain(weight, bias, gelu)


def _joined(tensors: Sequence[torch.Tensor], factors: Sequence[float]) -> torch.Tensor:
    scaled = [tensor if factor == 1 else tensor * factor for tensor, factor in zip(tensors, factors, strict=True)]
    return scaled[0] if len(scaled) == 1 else torch.cat(scaled)


class Plain:
    """PyTorch's own layout: weight [out, in], bias [out]."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> None:
        self.weight, self.bias, self.gelu = weight, bias, gelu

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = F.linear(x, self.weight, self.bias)
        return F.gelu(y) if self.gelu else y


class _Packed:
    """oneDNN's own weight layout; the operators are those that `torch.compile` emits for CPUs."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> None:
        ops: Any = torch.ops.mkldnn
        self._weight: torch.Tensor = ops._reorder_linear_weight(weight.contiguous(), 32)
        self._bias = bias
        self._activation: tuple[str, list[float], str] = ("gelu", [], "none") if gelu else ("none", [], "")
        self._apply = ops._linear_pointwise

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._apply(x, self._weight, self._bias, *self._activation)
        return y


class _Int8:
    """Weights in 8 bits with a scale for each output, inputs in 8 bits with a scale for each row.

    A row's own scale keeps its result independent of its neighbours, which PyTorch's dynamic
    quantization (one scale for the batch) does not.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> None:
        if not torch.cpu._is_vnni_supported():
            raise ModelUnsupported("int8 needs a CPU with VNNI instructions; use float32 or bfloat16.")
        ops: Any = torch.ops.quantized
        scales = (weight.abs().amax(1) / 127).clamp_min(1e-12).double()  # [out]
        zeros = torch.zeros(len(scales), dtype=torch.long)
        with warnings.catch_warnings():
            # Quantized tensor types are to leave PyTorch; nothing else in it has kernels as fast for 8 bits.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor")
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self._weight = ops.linear_prepack(quantized, None)
        self._bias, self._gelu = bias, gelu
        self._apply = ops.linear_with_input_q_dq_qweight_dq_output_fp32

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        largest = x.abs().amax(1, keepdim=True).clamp_min_(1e-12)  # [rows, 1]
        y = self._apply(x / largest, 1 / 127, 128, self._weight)
        torch.addcmul(self._bias, y, largest, out=y)
        return F.gelu(y) if self._gelu else y
