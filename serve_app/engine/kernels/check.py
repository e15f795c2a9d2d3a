"""Triton's kernels against PyTorch's operations on the device itself, before an engine leans on them."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from serve_app.engine.device import device_of
from serve_app.engine.image_cache import EncodedImage
from serve_app.engine.kernels import Kernels, Looks
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.kernels.triton_kernels import (
    TritonKernels,
    add_norm,
    image_attention,
    norm_linear,
    tree_attention,
)
from serve_app.engine.memory import rounded
from serve_app.engine.parameters import SearchParameters
from serve_app.types import Pixels

STEPS = 12
ROUNDING = 0.03
"""Numbers of about 1 in bfloat16 differ by less."""


def check(device: torch.device, heads: int, head_size: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    """Raises `ArithmeticError` for a wrong result, and what Triton raises."""
    _check_decoder(device, heads, head_size, dtype, cache_dtype)
    if not torch.equal(*(_sequences(device, kernels) for kernels in (TorchKernels(), TritonKernels()))):
        raise ArithmeticError("Steps do not find the same sequences.")


class _Stub:
    """A decoder whose scores depend on token and place alone."""

    def __init__(self, kernels: Kernels, device: torch.device) -> None:
        self.kernels = kernels
        random = torch.Generator().manual_seed(1)
        self._scores = torch.randn(2, 64, 200, generator=random).mul_(3).to(device)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, looks: Looks) -> torch.Tensor:
        seen = looks.nodes.flatten() * 0
        return self._scores[0, tokens % 64] + self._scores[1, positions % 64] + seen[:, None]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        return states.float()


def _sequences(device: torch.device, kernels: Kernels) -> torch.Tensor:
    """What a few groups of all kinds have found after some steps."""
    from serve_app.engine.batch import Batch
    from serve_app.engine.counters import Counters
    from serve_app.engine.scheduler import Group
    from serve_app.engine.state import HOPELESS, RowState
    from serve_app.engine.stepper import Stepper
    from serve_app.engine.tree import Tree

    place = device_of(device)
    tree = Tree(1, 1, 16, 3, 8, torch.float32, device, 10**8)
    batch = Batch(RowState(3, 8, 32, 200, place), tree, place)
    decoder: Any = _Stub(kernels, device)
    images: Any = None
    stepper = Stepper(batch, decoder, images, 3, Counters(), captures=False, counted_draws=True)
    for number, (beams, sample) in enumerate(((8, True), (3, False), (1, True), (1, False))):
        parameters = SearchParameters(
            max_length=20, min_length=6, num_beams=beams, num_return_sequences=1, do_sample=sample, temperature=0.8,
            top_k=50, top_p=0.9, repetition_penalty=1.4, no_repeat_ngram_size=2, length_penalty=2.0,
            early_stopping=False,
        )  # fmt: skip
        prompt = [1, *range(5, 5 + 4 * number)]
        group = Group(Pixels("", 0, 0, b""), prompt, parameters, number, lambda _: None)
        group.image = EncodedImage("", 0)
        batch.open(group)
    with torch.inference_mode():
        for _ in range(STEPS):
            launched, reading = stepper.launch(batch.shape())
            batch.end_step(launched, reading.wait())
    # What has not ended is hopeless, all of it equally: which of it is kept says nothing.
    state = batch.state.view(3)
    ended = (state["finished"] > HOPELESS / 2) & (state["beams"] > 0)
    finished = batch.state.finished_sequences * ended[..., None]
    return torch.cat((batch.state.sequences, finished), 1).clone()


def _check_decoder(device: torch.device, heads: int, size: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> None:
    blocks, rows, extent, patches = 2, 8, 80, 70
    random = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, device=device).div_(size**0.25).to(dtype)

    qkv = draw(blocks * rows, 3 * heads * size)
    keys, values = (rounded(draw(blocks, heads, 128, size), cache_dtype) for _ in range(2))
    nodes = torch.arange(rows, device=device).expand(blocks, rows).contiguous()
    seen = torch.rand(blocks, rows, 128, generator=random, device=device)[..., :extent] < 0.5
    seen = seen & (torch.arange(extent, device=device) >= rows)
    own = torch.eye(rows, dtype=torch.bool, device=device).expand(blocks, -1, -1).contiguous()
    found = tree_attention(qkv, nodes, seen, own, keys, values)
    q, k, v = qkv.view(blocks, rows, 3, heads, size).permute(2, 0, 3, 1, 4)
    k, v = rounded(k, cache_dtype), rounded(v, cache_dtype)
    _same(keys[:, :, :rows], k)
    _same(values[:, :, :rows], v)
    visible = torch.cat((own, seen[..., rows:]), 2)[:, None]
    scores = q.float() @ keys[:, :, :extent].float().transpose(2, 3)
    wanted = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ values[:, :, :extent].float()
    _same(found, wanted.transpose(1, 2).reshape(blocks * rows, -1))

    image_keys, image_values = (rounded(draw(2, heads, 80, size), cache_dtype) for _ in range(2))
    slots = torch.arange(blocks, device=device)[:, None].expand(-1, rows).contiguous()
    query = draw(blocks * rows, heads * size)
    each = query.view(blocks, rows, heads, size).transpose(1, 2)
    weights = (each.float() @ image_keys[:, :, :patches].float().transpose(2, 3)).softmax(-1)
    wanted = (weights @ image_values[:, :, :patches].float()).transpose(1, 2).reshape(blocks * rows, -1)
    for pictures in (1, rows):
        _same(image_attention(query, slots, image_keys, image_values, patches, pictures), wanted)

    x, residual, weight, bias = draw(70, 96), draw(70, 96), draw(96), draw(96)
    normed = F.layer_norm(x + residual, (96,), weight, bias, 1e-12)
    _same(add_norm(x, residual, weight, bias, 1e-12), normed)
    linear = draw(40, 96) / 10, draw(40)
    product = F.linear(normed, *linear)
    for rows, gelu in ((3, True), (70, False)):  # of one tile, and of several
        found, also = norm_linear(x[:rows], residual[:rows], weight, bias, 1e-12, *linear, gelu)
        _same(also, normed[:rows])
        _same(found, (F.gelu(product) if gelu else product)[:rows])


def _same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    difference = float((found.float() - wanted.float()).abs().max())
    if not difference < ROUNDING:
        raise ArithmeticError(f"A kernel's result is off by {difference:.3g}.")
