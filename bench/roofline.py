"""The least time that the work can take on this machine, from its measured peaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from serve_app.engine.linear import build

SIZE = 2048
"""Side of the square matrices whose product gives the peak."""
READ_BYTES = 512_000_000


class Amount(Protocol):
    """Work of one image."""

    @property
    def row_steps(self) -> int: ...

    @property
    def steps(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Roofline:
    """Measured peaks: floating-point (int8: integer) operations a second by precision, bytes read a second."""

    operations_s: Mapping[str, float]
    read_bytes_s: float
    decoder_weights: int
    row_operations: int
    image_operations: int

    @classmethod
    def measure(cls, device: str, config: Any, precisions: list[str]) -> Roofline:
        read = torch.ones(READ_BYTES // 4, device=device)
        text, vision = config.text_config, config.vision_config
        width, depth, side = text.hidden_size, text.num_hidden_layers, vision.hidden_size
        patches = (vision.image_size // vision.patch_size) ** 2 + 1
        # A layer has six products of the width squared: four for the past, two for the image.
        weights = depth * (6 * width**2 + 2 * width * text.intermediate_size) + width**2 + width * text.vocab_size
        encoder_layer = 4 * side**2 + 2 * side * vision.intermediate_size + 2 * patches * side
        encoder = 2 * patches * (vision.num_hidden_layers * encoder_layer + 2 * depth * side * width)
        return cls(
            {name: 2 * SIZE**3 / _best(_product(name, device), device) for name in {*precisions, "bfloat16"}},
            READ_BYTES / _best(read.sum, device),
            weights,
            2 * weights + 4 * depth * patches * width,
            encoder,
        )

    def seconds(self, precision: str, work: Amount, images: int) -> float:
        """Least seconds an image when `images` run together.

        An image is encoded at the peak rate (with int8: bfloat16's). Its decoding takes at least the
        operations at the peak rate, and at least the reading of all weights at every step, which
        images that run together share.
        """
        weight_bytes = {"float32": 4, "int8": 1}.get(precision, 2)
        encode = self.image_operations / self.operations_s["bfloat16" if precision == "int8" else precision]
        compute = work.row_steps * self.row_operations / self.operations_s[precision]
        reading = work.steps * self.decoder_weights * weight_bytes / self.read_bytes_s
        return encode + max(compute, reading / images)


def _product(precision: str, device: str) -> Callable[[], object]:
    if precision == "int8":
        linear, x = build(torch.nn.Linear(SIZE, SIZE), int8=True), torch.randn(SIZE, SIZE)
        return lambda: linear(x)
    a = torch.randn(SIZE, SIZE, device=device).to(getattr(torch, precision))
    return lambda: F.linear(a, a)


def _best(run: Callable[[], object], device: str) -> float:
    """Shortest of some runs, seconds."""
    seconds = []
    for _ in range(8):
        start = time.perf_counter()
        with torch.inference_mode():
            run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
