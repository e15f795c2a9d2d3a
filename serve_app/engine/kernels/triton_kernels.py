"""The decoder's attention, and what stands between its products, as Triton kernels.

Each does in one launch what `torch_kernels` does in several, and reads keys and values once where they lie: nothing is
gathered. Sizes that vary from step to step are run-time arguments, so that a kernel is compiled once for a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from serve_app.engine.kernels import Looks, Sight, Steps
from serve_app.engine.linear import Linear, Plain

_TILE = 64
"""Nodes or patches that a program takes at a time."""
_COLUMNS = 32
"""Columns of a linear layer that a program takes: few, so that a step of one image keeps the whole card busy."""
_LEAST = 16
"""Fewest rows of a matrix product on tensor cores."""


@triton.jit
def _soft(scores, values, most, total, context):  # type: ignore[no-untyped-def]
    """One tile of an online softmax: scores [rows, tile], values [tile, size]; -inf is what a row does not see."""
    new = tl.maximum(most, tl.max(scores, 1))
    # A row that has seen nothing yet has no maximum; it goes on with zeros.
    base = tl.where(new == float("-inf"), 0.0, new)
    weights = tl.exp(scores - base[:, None])
    scale = tl.exp(most - base)
    total = total * scale + tl.sum(weights, 1)
    context = context * scale[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return new, total, context


@triton.jit
def _tree_attention(  # type: ignore[no-untyped-def]
    qkv, nodes, seen, own, keys, values, out,
    extent, seen_block, seen_row, key_block, key_head, width, largest,
    ROWS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr,
    FP8: tl.constexpr,
):  # fmt: skip
    """One block and head: writes the rows' keys and values to their nodes; attention to past nodes and to these.

    qkv [rows, 3, heads, SIZE]; nodes [blocks, ROWS]; seen [blocks, ROWS, ≥ extent] before this step; own [blocks, ROWS,
    ROWS]: whether a row sees another one's new node; keys, values [blocks, heads, nodes, SIZE], numbers of theirs end
    at `largest`; out [rows, width].
    """
    block, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, place = tl.arange(0, PADDED), tl.arange(0, WIDE)
    real, inside = row < ROWS, place < SIZE
    both = real[:, None] & inside[None, :]
    at = (block * ROWS + row)[:, None] * (3 * width) + head * SIZE + place[None, :]
    q = tl.load(qkv + at, mask=both, other=0.0)
    k = tl.load(qkv + at + width, mask=both, other=0.0)
    v = tl.load(qkv + at + 2 * width, mask=both, other=0.0)
    node = tl.load(nodes + block * ROWS + row, mask=real, other=0)
    store = block * key_block + head * key_head
    kept_k, kept_v = k, v
    if FP8:
        kept_k = tl.clamp(k.to(tl.float32), -largest, largest).to(keys.dtype.element_ty)
        kept_v = tl.clamp(v.to(tl.float32), -largest, largest).to(values.dtype.element_ty)
        k, v = kept_k.to(q.dtype), kept_v.to(q.dtype)
    tl.store(keys + store + node[:, None] * SIZE + place[None, :], kept_k, mask=both)
    tl.store(values + store + node[:, None] * SIZE + place[None, :], kept_v, mask=both)

    sees = tl.load(
        own + (block * ROWS + row)[:, None] * ROWS + row[None, :], mask=real[:, None] & real[None, :], other=0
    )
    scores = tl.where(sees != 0, tl.dot(q, tl.trans(k), input_precision="ieee"), float("-inf"))
    most = tl.full([PADDED], float("-inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    context = tl.zeros([PADDED, WIDE], tl.float32)
    most, total, context = _soft(scores, v, most, total, context)
    for start in range(0, extent, TILE):
        # Names of their own: a compiled loop may not give a variable another shape.
        tile = start + tl.arange(0, TILE)
        some = tile < extent
        tile_mask = some[:, None] & inside[None, :]
        past_k = tl.load(keys + store + tile[:, None] * SIZE + place[None, :], mask=tile_mask, other=0.0).to(q.dtype)
        past_v = tl.load(values + store + tile[:, None] * SIZE + place[None, :], mask=tile_mask, other=0.0).to(q.dtype)
        where = block * seen_block + row[:, None] * seen_row + tile[None, :]
        past_sees = tl.load(seen + where, mask=real[:, None] & some[None, :], other=0)
        past_scores = tl.dot(q, tl.trans(past_k), input_precision="ieee")
        past_scores = tl.where(past_sees != 0, past_scores, float("-inf"))
        most, total, context = _soft(past_scores, past_v, most, total, context)
    context = context / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(
        out + (block * ROWS + row)[:, None] * width + head * SIZE + place[None, :],
        context.to(out.dtype.element_ty),
        mask=both,
    )


@triton.jit
def _image_attention(  # type: ignore[no-untyped-def]
    query, slots, keys, values, out,
    patches, key_slot, key_head, key_patch, width,
    ROWS: tl.constexpr, PADDED: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr,
    PICTURES: tl.constexpr,
):  # fmt: skip
    """One block and head: attention of the rows to their images.

    query [rows, heads, SIZE]; slots [blocks, ROWS]; keys, values [slots, heads, ≥ patches, SIZE]; out [rows, width].
    """
    block, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row, place = tl.arange(0, PADDED), tl.arange(0, WIDE)
    real, inside = row < ROWS, place < SIZE
    both = real[:, None] & inside[None, :]
    at = (block * ROWS + row)[:, None] * width + head * SIZE + place[None, :]
    q = tl.load(query + at, mask=both, other=0.0)
    slot = tl.load(slots + block * ROWS + row, mask=real, other=0)
    most = tl.full([PADDED], float("-inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    context = tl.zeros([PADDED, WIDE], tl.float32)
    for number in range(PICTURES):
        if PICTURES == 1:  # rows without a group have 0
            picture = tl.max(slot, 0)
            mine = real
        else:
            picture = tl.sum(tl.where(row == number, slot, 0), 0)
            mine = row == number
        store = picture * key_slot + head * key_head
        for start in range(0, patches, TILE):
            tile = start + tl.arange(0, TILE)
            some = tile < patches
            near = some[:, None] & inside[None, :]
            k = tl.load(keys + store + tile[:, None] * key_patch + place[None, :], mask=near, other=0.0).to(q.dtype)
            v = tl.load(values + store + tile[:, None] * key_patch + place[None, :], mask=near, other=0.0).to(q.dtype)
            scores = tl.dot(q, tl.trans(k), input_precision="ieee")
            scores = tl.where(mine[:, None] & some[None, :], scores, float("-inf"))
            most, total, context = _soft(scores, v, most, total, context)
    context = context / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(out + at, context.to(out.dtype.element_ty), mask=both)


@triton.jit
def _add_norm(x, residual, weight, bias, out, width, eps, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """One row: layer normalisation of x + residual. All [rows, width]; weight and bias [width]."""
    row, place = tl.program_id(0).to(tl.int64), tl.arange(0, WIDE)
    inside = place < width
    at = row * width + place
    total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    total = total.to(x.dtype.element_ty).to(tl.float32)  # as a sum of its own would be rounded
    mean = tl.sum(total, 0) / width
    centred = tl.where(inside, total - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    w = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(bias + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, (centred * scale * w + b).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _norm_linear(  # type: ignore[no-untyped-def]
    x, residual, scale, shift, weight, bias, normed, out,
    rows, width, columns, eps,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, TILE: tl.constexpr, GELU: tl.constexpr,
):  # fmt: skip
    """A tile of rows and columns: a linear layer, with a GELU or not, of the layer normalisation of x + residual.

    x, residual, normed [rows, width]; scale, shift [width]; weight [columns, width]; bias [columns]; out [rows,
    columns].
    """
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    real, inside = row < rows, column < columns
    at = row.to(tl.int64)[:, None] * width
    # Once more for each tile of columns: a few kilobytes from the cache, where a launch of its own takes longer.
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, width, TILE):
        place = start + tl.arange(0, TILE)
        both = real[:, None] & (place < width)[None, :]
        total += tl.sum(_sum(x + at + place[None, :], residual + at + place[None, :], both), 1)
    mean = (total / width)[:, None]
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, width, TILE):
        place = start + tl.arange(0, TILE)
        both = real[:, None] & (place < width)[None, :]
        centred = tl.where(both, _sum(x + at + place[None, :], residual + at + place[None, :], both) - mean, 0.0)
        total += tl.sum(centred * centred, 1)
    factor = (1 / tl.sqrt(total / width + eps))[:, None]
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, width, TILE):
        place = start + tl.arange(0, TILE)
        near = place < width
        both = real[:, None] & near[None, :]
        centred = _sum(x + at + place[None, :], residual + at + place[None, :], both) - mean
        w = tl.load(scale + place, mask=near, other=0.0).to(tl.float32)[None, :]
        b = tl.load(shift + place, mask=near, other=0.0).to(tl.float32)[None, :]
        normal = tl.where(both, centred * factor * w + b, 0.0).to(x.dtype.element_ty)
        if tl.program_id(0) == 0:
            tl.store(normed + at + place[None, :], normal, mask=both)
        part = column.to(tl.int64)[:, None] * width + place[None, :]
        part = tl.load(weight + part, mask=inside[:, None] & near[None, :], other=0.0)
        product += tl.dot(normal, tl.trans(part), input_precision="ieee")
    product += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if GELU:
        product = 0.5 * product * (1 + tl.erf(product * 0.7071067811865476))
    at = row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(out + at, product.to(out.dtype.element_ty), mask=real[:, None] & inside[None, :])


@triton.jit
def _sum(x, residual, mask):  # type: ignore[no-untyped-def]
    """x + residual, rounded as a sum of its own would be."""
    total = tl.load(x, mask=mask, other=0.0).to(tl.float32) + tl.load(residual, mask=mask, other=0.0).to(tl.float32)
    return total.to(x.dtype.element_ty).to(tl.float32)


@torch.library.custom_op("caption_serve::tree_attention", mutates_args=("keys", "values"))
def tree_attention(
    qkv: torch.Tensor,
    nodes: torch.Tensor,
    seen: torch.Tensor,
    own: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """[rows, width] for qkv [rows, 3 * width]; shapes as in the kernel."""
    (blocks, rows, extent), (heads, size) = seen.shape, (keys.shape[1], keys.shape[3])
    width = heads * size
    out = qkv.new_empty(blocks * rows, width)
    _tree_attention[blocks, heads](
        qkv, nodes, seen.view(torch.uint8), own.view(torch.uint8), keys, values, out,
        extent, seen.stride(0), seen.stride(1), keys.stride(0), keys.stride(1), width, torch.finfo(keys.dtype).max,
        ROWS=rows, PADDED=max(_LEAST, triton.next_power_of_2(rows)), SIZE=size,
        WIDE=max(_LEAST, triton.next_power_of_2(size)), TILE=_TILE, FP8=keys.dtype.itemsize == 1,
    )  # fmt: skip
    return out


@tree_attention.register_fake
def _(qkv: torch.Tensor, nodes: Any, seen: Any, own: Any, keys: Any, values: Any) -> torch.Tensor:
    return qkv.new_empty(len(qkv), qkv.shape[1] // 3)


@torch.library.custom_op("caption_serve::image_attention", mutates_args=())
def image_attention(
    query: torch.Tensor, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, patches: int, pictures: int
) -> torch.Tensor:
    """[rows, width] for query [rows, width]; `pictures` of a block, 1 or as many as rows."""
    (blocks, rows), (heads, size) = slots.shape, (keys.shape[1], keys.shape[3])
    out = torch.empty_like(query)
    _image_attention[blocks, heads](
        query, slots, keys, values, out,
        patches, keys.stride(0), keys.stride(1), keys.stride(2), heads * size,
        ROWS=rows, PADDED=max(_LEAST, triton.next_power_of_2(rows)), SIZE=size,
        WIDE=max(_LEAST, triton.next_power_of_2(size)), TILE=_TILE, PICTURES=pictures,
    )  # fmt: skip
    return out


@image_attention.register_fake
def _(query: torch.Tensor, slots: Any, keys: Any, values: Any, patches: int, pictures: int) -> torch.Tensor:
    return torch.empty_like(query)


@torch.library.custom_op("caption_serve::add_norm", mutates_args=())
def add_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer normalisation of x + residual, [rows, width]."""
    out = torch.empty_like(x)
    rows, width = x.shape
    _add_norm[rows,](x, residual, weight, bias, out, width, eps, WIDE=triton.next_power_of_2(width))
    return out


@add_norm.register_fake
def _(x: torch.Tensor, residual: Any, weight: Any, bias: Any, eps: float) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("caption_serve::norm_linear", mutates_args=())
def norm_linear(
    x: torch.Tensor,
    residual: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor,
    gelu: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(linear layer of n [rows, out], n [rows, width]) for n, the layer normalisation of x + residual."""
    (rows, width), columns = x.shape, len(weight)
    normed, out = torch.empty_like(x), x.new_empty(rows, columns)
    tile = max(_LEAST, min(_TILE, triton.next_power_of_2(rows)))
    _norm_linear[triton.cdiv(columns, _COLUMNS), triton.cdiv(rows, tile)](
        x, residual, scale, shift, weight, bias, normed, out,
        rows, width, columns, eps, ROWS=tile, COLUMNS=_COLUMNS, TILE=_TILE, GELU=gelu,
    )  # fmt: skip
    return out, normed


@norm_linear.register_fake
def _(x: torch.Tensor, residual: Any, scale: Any, shift: Any, eps: float, weight: Any, bias: Any, gelu: bool) -> Any:
    return x.new_empty(len(x), len(weight)), torch.empty_like(x)


class TritonKernels:
    """Eight launches a layer: two of attention, three of sums with their normalisation and the linear layer behind
    them, three linear layers; and `triton_steps`."""

    def steps(self, batch: Any, end: int) -> Steps:
        from serve_app.engine.kernels.triton_steps import TritonSteps

        return TritonSteps(batch, end)

    def sight(self, looks: Looks, dtype: torch.dtype) -> Sight:
        past = looks.tree.seen[: len(looks.nodes), :, : looks.extent]
        return _TritonSight(looks, past, looks.own.contiguous(), looks.slots.contiguous())

    def add_norm(self, x: torch.Tensor, residual: torch.Tensor, norm: Any) -> torch.Tensor:
        return add_norm(x, residual, norm.weight, norm.bias, norm.eps)

    def norm_linear(
        self, x: torch.Tensor, residual: torch.Tensor, norm: Any, linear: Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if isinstance(linear, Plain) and x.dtype != torch.float32:  # of which tensor cores take no exact product
            weights = norm.weight, norm.bias, norm.eps, linear.weight, linear.bias, linear.gelu
            return norm_linear(x, residual, *weights)
        normed = self.add_norm(x, residual, norm)
        return linear(normed), normed


@dataclass(frozen=True, slots=True)
class _TritonSight:
    looks: Looks
    past: torch.Tensor
    own: torch.Tensor
    slots: torch.Tensor

    def attend_past(self, layer: int, qkv: torch.Tensor) -> torch.Tensor:
        tree = self.looks.tree
        return tree_attention(qkv, self.looks.nodes, self.past, self.own, *tree.states[layer])

    def attend_image(self, layer: int, query: torch.Tensor) -> torch.Tensor:
        images = self.looks.images
        keys, values = images.states[layer].unbind(1)
        return image_attention(query, self.slots, keys, values, images.patches, self.looks.pictures)
