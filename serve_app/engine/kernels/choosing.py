"""Which kernels an engine takes."""

from __future__ import annotations

import importlib.util
import logging

import torch

from serve_app.engine.kernels import Kernels
from serve_app.engine.kernels.torch_kernels import TorchKernels

logger = logging.getLogger(__name__)


def kernels_of(
    device: torch.device, heads: int, head_size: int, dtype: torch.dtype, cache_dtype: torch.dtype
) -> Kernels:
    """The fastest ones that work on the device, for so many heads, states and caches of these dtypes."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return TorchKernels()
    try:
        from serve_app.engine.kernels.check import check
        from serve_app.engine.kernels.triton_kernels import TritonKernels

        with torch.cuda.device(device):
            check(device, heads, head_size, dtype, cache_dtype)
    except Exception as error:  # a compiler that is missing, a card that Triton does not know, a wrong result
        logger.warning("Triton's kernels do not work on %s, and PyTorch's take their place: %s", device, error)
        return TorchKernels()
    return TritonKernels()
