"""What the decoder asks of a device between its products: attention, and sums with their normalisation.

`torch_kernels` is the reference and runs everywhere; `triton_kernels` takes fewer launches and copies on a GPU.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from serve_app.engine.image_cache import ImageCache
from serve_app.engine.tree import Tree

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looks:
    """Where the rows of a step look, [blocks, rows] of them."""

    tree: Tree
    images: ImageCache
    nodes: torch.Tensor
    """[blocks, rows]: where the rows' own keys and values go."""
    own: torch.Tensor
    """[blocks, rows, rows]: whether a row sees the new node of another one, or its own."""
    seen: torch.Tensor
    """[blocks, rows, extent]: which nodes a row sees, new ones included."""
    slots: torch.Tensor
    """[blocks, rows]: the image slot of each row; 0 for one without a group."""
    pictures: int
    """1 where a block has one image, else as many as it has rows."""
    known: Sequence[int] | None
    """`slots`, row by row, where the host may know them; a row without a group has another's."""


class Sight(Protocol):
    """Attention of a step; everything [rows, …], queries scaled."""

    def attend_past(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Writes the rows' keys and values to their nodes, and attends to all that a row sees.

        qkv [rows, 3 * width] of the cache's dtype; returns [rows, width].
        """
        ...

    def attend_image(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """query [rows, width] of the cache's dtype; returns [rows, width]."""
        ...


class Kernels(Protocol):
    def sight(self, looks: Looks, dtype: torch.dtype) -> Sight:
        """`dtype` of what the attention returns."""
        ...

    def add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Any) -> torch.Tensor:
        """Layer normalisation of x + residual, [rows, width]; may overwrite `x`. `norm`: an `nn.LayerNorm`."""
        ...


def kernels_of(device: torch.device) -> Kernels:
    """The fastest ones that work on the device."""
    from serve_app.engine.kernels.torch_kernels import TorchKernels

    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return TorchKernels()
    from serve_app.engine.kernels.triton_kernels import TritonKernels, check

    try:
        check(device)
    except Exception as error:  # a compiler that is missing, a card that Triton does not know, a wrong result
        logger.warning("Triton's kernels do not work on %s, and PyTorch's take their place: %s", device, error)
        return TorchKernels()
    return TritonKernels()
