"""BLIP's text decoder, one token a row: the forward pass of the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from serve_app.engine.kernels import Kernels, Looks
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.linear import Linear, build
from serve_app.engine.precision import Precision, cast
from serve_app.errors import ModelUnsupported


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Linear
    out: Linear
    norm: nn.Module
    cross_query: Linear
    cross_out: Linear
    cross_norm: nn.Module
    fc1: Linear
    fc2: Linear
    last_norm: nn.Module
    seen: Linear


class Decoder:
    """The layers in the form and precision that they run in."""

    def __init__(self, model: BlipTextLMHeadModel, precision: Precision, kernels: Kernels | None = None) -> None:
        """Prepares the layers; the model itself is moved to their dtype. Raises `ModelUnsupported`."""
        config = model.config
        if config.hidden_act != "gelu":
            raise ModelUnsupported(f"The engine knows the activation gelu, not {config.hidden_act!r}.")
        text = cast(model, precision.dtype)
        bert, head = text.bert, text.cls.predictions
        int8 = precision.int8
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.head_size: int = config.hidden_size // config.num_attention_heads
        self.vocabulary: int = config.vocab_size
        self.dtype, self.cache_dtype, self._attention = precision.dtype, precision.cache_dtype, precision.attention
        self.device: torch.device = head.decoder.weight.device
        self.kernels = kernels or TorchKernels()
        self._embeddings: Any = bert.embeddings
        # Attention's scale lies in the query weights: one product fewer in every layer.
        scale = 1 / math.sqrt(self.head_size)
        self._layers = [
            _Layer(
                qkv=build(
                    [layer.attention.self.query, layer.attention.self.key, layer.attention.self.value],
                    scales=(scale, 1, 1),
                    int8=int8,
                ),
                out=build(layer.attention.output.dense, int8=int8),
                norm=layer.attention.output.LayerNorm,
                cross_query=build(layer.crossattention.self.query, scales=(scale,), int8=int8),
                cross_out=build(layer.crossattention.output.dense, int8=int8),
                cross_norm=layer.crossattention.output.LayerNorm,
                fc1=build(layer.intermediate.dense, int8=int8, gelu=True),
                fc2=build(layer.output.dense, int8=int8),
                last_norm=layer.output.LayerNorm,
                seen=build(
                    [
                        cast(layer.crossattention.self.key, precision.vision_dtype),
                        cast(layer.crossattention.self.value, precision.vision_dtype),
                    ]
                ),
            )
            for layer in bert.encoder.layer
        ]
        self._transform = build(head.transform.dense, int8=int8, gelu=True)
        self._transform_norm = head.transform.LayerNorm
        self._head = build(head.decoder, int8=int8)

    def seen_of(self, states: torch.Tensor) -> Iterator[torch.Tensor]:
        """Each layer's keys and values [images, 2, heads, patches, head_size] of patch states [images, patches, vision
        width]."""
        images, patches, _ = states.shape
        for layer in self._layers:
            seen = layer.seen(states.flatten(0, 1)).view(images, patches, 2, self.heads, self.head_size)
            yield seen.permute(0, 2, 3, 1, 4)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, looks: Looks) -> torch.Tensor:
        """Runs all layers for one token a row, whose keys and values go where `looks` says.

        tokens, positions int64 [rows]. Returns states [rows, width].
        """
        sight, joined = self.kernels.sight(looks, self.dtype), self.kernels.norm_linear
        # Each layer normalises the sum of two; what reads the result does that itself.
        x, residual = self._embeddings.word_embeddings(tokens), self._embeddings.position_embeddings(positions)
        norm = self._embeddings.LayerNorm
        for index, layer in enumerate(self._layers):
            qkv, residual = joined(x, residual, norm, layer.qkv)  # [rows, 3 * width], [rows, width]
            x = layer.out(sight.attend_past(index, qkv.to(self._attention)))
            query, residual = joined(x, residual, layer.norm, layer.cross_query)
            x = layer.cross_out(sight.attend_image(index, query.to(self._attention)))
            hidden, residual = joined(x, residual, layer.cross_norm, layer.fc1)
            x, norm = layer.fc2(hidden), layer.last_norm
        return self.kernels.add_norm(x, residual, norm)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[rows, width] → float32 [rows, vocabulary]."""
        return self._head(self._transform_norm(self._transform(states))).float()
