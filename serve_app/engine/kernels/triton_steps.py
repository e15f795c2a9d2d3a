"""A step except the decoder in four launches, instead of two hundred and fifty of PyTorch's operations."""

from __future__ import annotations

from typing import Any

import torch
import triton

from serve_app.engine.batch import Batch, Shape
from serve_app.engine.kernels import Prepared
from serve_app.engine.kernels.search_kernels import _advance, _penalise
from serve_app.engine.kernels.step_kernels import _commit, _prepare

MOST_CANDIDATES, MOST_SEEN = 1024, 16384
"""Candidates, and rows times nodes, of a block that one program holds in its registers."""


@torch.library.custom_op("caption_serve::prepare", mutates_args=())
def prepare(
    seen: torch.Tensor, integers: torch.Tensor, sequences: torch.Tensor, blocks: int, extent: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(nodes, tokens, positions, own, goes_on) of a step, as `Stepper` has them."""
    rows = seen.shape[1]
    nodes, tokens, places = (integers.new_empty(blocks, rows) for _ in range(3))
    own = torch.empty(blocks, rows, rows, dtype=torch.bool, device=seen.device)
    goes_on = torch.empty(blocks, rows, dtype=torch.bool, device=seen.device)
    _prepare[blocks,](
        seen.view(torch.uint8), integers, sequences, nodes, tokens, places,
        own.view(torch.uint8), goes_on.view(torch.uint8),
        extent, seen.stride(0), seen.stride(1), sequences.shape[2],
        ROWS=rows, WIDE=triton.next_power_of_2(extent),
    )  # fmt: skip
    return nodes, tokens, places, own, goes_on


@prepare.register_fake
def _(seen: torch.Tensor, integers: torch.Tensor, sequences: Any, blocks: int, extent: int) -> Any:
    rows = seen.shape[1]
    numbers = [integers.new_empty(blocks, rows) for _ in range(3)]
    return *numbers, seen.new_empty(blocks, rows, rows), seen.new_empty(blocks, rows)


@torch.library.custom_op("caption_serve::penalise", mutates_args=("scores",))
def penalise(
    scores: torch.Tensor,
    sequences: torch.Tensor,
    integers: torch.Tensor,
    floats: torch.Tensor,
    width: int,
    end: int,
    ngram: int,
) -> None:
    """`processors.process` except the temperature, in place; scores [rows, vocabulary]."""
    _penalise[len(scores),](
        scores, sequences, integers, floats, scores.shape[1], sequences.shape[2], width, end,
        LARGEST=ngram, WIDE=triton.next_power_of_2(width),
    )  # fmt: skip


@penalise.register_fake
def _(scores: Any, sequences: Any, integers: Any, floats: Any, width: int, end: int, ngram: int) -> None:
    return None


@torch.library.custom_op(
    "caption_serve::advance", mutates_args=("sequences", "finished_sequences", "integers", "floats")
)
def advance(
    values: torch.Tensor,
    tokens: torch.Tensor,
    sequences: torch.Tensor,
    finished_sequences: torch.Tensor,
    integers: torch.Tensor,
    floats: torch.Tensor,
    goes_on: torch.Tensor,
    width: int,
    end: int,
) -> torch.Tensor:
    """`Search` from the most likely tokens on, values and tokens [rows, candidates]; returns parents [blocks, rows]."""
    blocks, rows = goes_on.shape
    parents = integers.new_empty(blocks, rows)
    _advance[blocks,](
        values, tokens, sequences, finished_sequences, integers, floats, goes_on.view(torch.uint8), parents,
        values.shape[1], sequences.shape[2], width, end,
        ROWS=rows, K=triton.next_power_of_2(values.shape[1]), WIDE=triton.next_power_of_2(width),
    )  # fmt: skip
    return parents


@advance.register_fake
def _(
    values: Any,
    tokens: Any,
    sequences: Any,
    finished_sequences: Any,
    integers: torch.Tensor,
    floats: Any,
    goes_on: torch.Tensor,
    width: int,
    end: int,
) -> torch.Tensor:
    return integers.new_empty(goes_on.shape)


@torch.library.custom_op("caption_serve::commit", mutates_args=("seen", "integers", "report"))
def commit(
    seen: torch.Tensor,
    integers: torch.Tensor,
    nodes: torch.Tensor,
    own: torch.Tensor,
    goes_on: torch.Tensor,
    parents: torch.Tensor,
    report: torch.Tensor,
    extent: int,
) -> None:
    """What `Stepper` does when every row has its token."""
    blocks, rows = nodes.shape
    _commit[blocks,](
        seen.view(torch.uint8), integers, nodes, own.view(torch.uint8), goes_on.view(torch.uint8), parents, report,
        extent, seen.stride(0), seen.stride(1), ROWS=rows, WIDE=triton.next_power_of_2(extent),
    )  # fmt: skip


@commit.register_fake
def _(seen: Any, integers: Any, nodes: Any, own: Any, goes_on: Any, parents: Any, report: Any, extent: int) -> None:
    return None


class TritonSteps:
    """The Steps protocol over these kernels."""

    def __init__(self, batch: Batch, end: int) -> None:
        self._batch, self._end = batch, end

    def covers(self, shape: Shape) -> bool:
        """Whether one program can hold a block of this shape."""
        rows = self._batch.rows
        few = rows * shape.needs.candidates <= MOST_CANDIDATES and rows * shape.extent <= MOST_SEEN
        return few and rows & (rows - 1) == 0

    def prepare(self, shape: Shape) -> Prepared:
        state = self._batch.state
        return Prepared(*prepare(self._batch.tree.seen, state.integers, state.sequences, shape.blocks, shape.extent))

    def advance(self, shape: Shape, logits: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        state, needs = self._batch.state, shape.needs
        scores = torch.log_softmax(logits, -1)
        plain = (state.view(shape.blocks)["beams"] == 0).reshape(-1, 1)
        scores = torch.where(plain, logits, scores)  # without beams transformers works on the logits as they are
        width = min(needs.max_length, state.positions)
        penalise(scores, state.sequences, state.integers, state.floats, width, self._end, max(needs.ngram, 1))
        values, tokens = scores.topk(needs.candidates)
        return advance(
            values, tokens, state.sequences, state.finished_sequences, state.integers, state.floats,
            prepared.goes_on, width, self._end,
        )  # fmt: skip

    def commit(self, shape: Shape, prepared: Prepared, parents: torch.Tensor, report: torch.Tensor) -> None:
        commit(
            self._batch.tree.seen, self._batch.state.integers, prepared.nodes, prepared.own, prepared.goes_on,
            parents, report, shape.extent,
        )  # fmt: skip
