"""The least time that the work can take on this machine, from its measured peaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.nn import functional as F

from serve_app.engine.linear import build

SIZES = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product gives the peak."""
READ_BYTES = 512_000_000


class Amount(Protocol):
    """Work of one image."""

    @property
    def row_steps(self) -> int: ...

    @property
    def steps(self) -> int: ...

    @property
    def node_steps(self) -> int:
        """Tokens whose keys and values are read, over all steps: at least those of one beam of each group."""
        ...


@dataclass(frozen=True, slots=True)
class Roofline:
    """Measured peaks: floating-point (int8: integer) operations a second by precision, bytes read a second."""

    operations_s: Mapping[str, float]
    read_bytes_s: float
    decoder_weights: int
    row_operations: int
    image_operations: int
    image_numbers: int
    """Keys and values of an image."""
    node_numbers: int
    """Keys and values of a token."""

    @classmethod
    def measure(cls, device: str, config: Any, precisions: list[str]) -> Roofline:
        read = torch.ones(READ_BYTES // 4, device=device)
        return cls(
            {
                name: 2 * SIZES[device] ** 3 / _best(_product(name, device), device)
                for name in {*precisions, "bfloat16"}
            },
            READ_BYTES / _best(read.sum, device),
            **cls.sizes(config),
        )

    @staticmethod
    def sizes(config: Any) -> dict[str, int]:
        """What a model's configuration says of the work, by the fields' names."""
        text, vision = config.text_config, config.vision_config
        width, depth, side = text.hidden_size, text.num_hidden_layers, vision.hidden_size
        patches = (vision.image_size // vision.patch_size) ** 2 + 1
        # A layer has six products of the width squared: four for the past, two for the image.
        weights = depth * (6 * width**2 + 2 * width * text.intermediate_size) + width**2 + width * text.vocab_size
        encoder_layer = 4 * side**2 + 2 * side * vision.intermediate_size + 2 * patches * side
        encoder = 2 * patches * (vision.num_hidden_layers * encoder_layer + 2 * depth * side * width)
        return {
            "decoder_weights": weights,
            "row_operations": 2 * weights + 4 * depth * patches * width,
            "image_operations": encoder,
            "image_numbers": 2 * depth * patches * width,
            "node_numbers": 2 * depth * width,
        }

    def seconds(self, precision: str, work: Amount, images: int) -> float:
        """Least seconds an image when `images` run together.

        An image is encoded at the peak rate (with int8 and fp8: bfloat16's). Its decoding takes at least the operations
        at the peak rate, and at least the reading, at every step, of all weights, which images that run together share,
        of its own keys and values, and of those of its tokens.
        """
        weight_bytes = {"float32": 4, "int8": 1}.get(precision, 2)
        peaks = {**self.operations_s, "fp8": self.operations_s["bfloat16"]}
        encode = self.image_operations / peaks["bfloat16" if precision == "int8" else precision]
        compute = work.row_steps * self.row_operations / peaks[precision]
        kept_bytes = {"float32": 4, "fp8": 1}.get(precision, 2)
        numbers = work.steps * self.image_numbers + work.node_steps * self.node_numbers
        weights = work.steps * self.decoder_weights * weight_bytes / images
        return encode + max(compute, (weights + numbers * kept_bytes) / self.read_bytes_s)


def _product(precision: str, device: str) -> Callable[[], object]:
    size = SIZES[device]
    if precision == "int8":
        linear, x = build(torch.nn.Linear(size, size), int8=True), torch.randn(size, size)
        return lambda: linear(x)
    a = torch.randn(size, size, device=device).to(getattr(torch, precision))
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
