"""What the decoder asks of a device between its products: attention, and sums with their normalisation.

`torch_kernels` is the reference and runs everywhere; `triton_kernels` takes fewer launches and copies on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from serve_app.engine.image_cache import ImageCache
from serve_app.engine.linear import Linear
from serve_app.engine.tree import Tree


@dataclass(frozen=True, slots=True)
class Looks:
    """Where the rows of a step look, [blocks, rows] of them."""

    tree: Tree
    images: ImageCache
    nodes: torch.Tensor
    """[blocks, rows]: where the rows' own keys and values go."""
    own: torch.Tensor
    """[blocks, rows, rows]: whether a row sees the new node of another one, or its own."""
    extent: int
    """Nodes of a block that are looked at."""
    seen: torch.Tensor | None
    """[blocks, rows, extent]: which nodes a row sees, new ones included; None if the kernels find that out."""
    slots: torch.Tensor
    """[blocks, rows]: the image slot of each row; 0 for one without a group."""
    pictures: int
    """1 if a block has one image, else as many as it has rows."""
    known: Sequence[int] | None
    """`slots`, row by row, if the host may know them; a row without a group has another's."""


class Sight(Protocol):
    """Attention of a step; everything [rows, …], queries scaled."""

    def attend_past(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        """Writes the rows' keys and values to their nodes, and attends to all that a row sees.

        qkv [rows, 3 * width] in the dtype of attention; returns [rows, width].
        """
        ...

    def attend_image(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        """query [rows, width] in the dtype of attention; returns [rows, width]."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the rows do in a step, [blocks, rows] each."""

    nodes: torch.Tensor
    """Where their keys and values go."""
    tokens: torch.Tensor
    positions: torch.Tensor
    """Of the tokens in their sequences."""
    own: torch.Tensor
    """[blocks, rows, rows]: see `Looks`."""
    goes_on: torch.Tensor
    """Whether the row chooses a token."""


class Steps(Protocol):
    """A step except the decoder, in few launches; `Stepper` has it in PyTorch's operations."""

    def covers(self, shape: Any) -> bool:
        """Whether it can take a step of that `batch.Shape`."""
        ...

    def prepare(self, shape: Any) -> Prepared: ...

    def advance(self, shape: Any, logits: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        """Chooses from float32 logits [rows, vocabulary]; returns which row each goes on from, [blocks, rows]."""
        ...

    def commit(self, shape: Any, prepared: Prepared, parents: torch.Tensor, report: torch.Tensor) -> None: ...


class Kernels(Protocol):
    def steps(self, batch: Any, end: int) -> Steps | None:
        """Those of a `batch.Batch`, if there are some. `end`: id of the token that ends a text."""
        ...

    def sight(self, looks: Looks, dtype: torch.dtype) -> Sight:
        """`dtype` of what the attention returns."""
        ...

    def add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Any) -> torch.Tensor:
        """Layer normalisation of x + residual, [rows, width]; may overwrite `x`. `norm`: an `nn.LayerNorm`."""
        ...

    def norm_linear(
        self, x: torch.Tensor, residual: torch.Tensor, norm: Any, linear: Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`linear` of what `add_norm` returns, [rows, out], and that itself, [rows, width]; may overwrite `x`."""
        ...
