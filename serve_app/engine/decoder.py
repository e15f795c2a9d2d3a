"""BLIP's text decoder, one token a row: the forward pass of the engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from serve_app.engine.kernels import Kernels, Looks, kernels_of
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
    cross_key: Linear
    cross_value: Linear


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
        self.dtype, self.cache_dtype = precision.dtype, precision.cache_dtype
        self.device: torch.device = head.decoder.weight.device
        self.kernels = kernels or kernels_of(self.device, self.heads, self.head_size, self.dtype)
        self._embeddings = bert.embeddings
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
                cross_key=build(cast(layer.crossattention.self.key, precision.vision_dtype)),
                cross_value=build(cast(layer.crossattention.self.value, precision.vision_dtype)),
            )
            for layer in bert.encoder.layer
        ]
        self._transform = build(head.transform.dense, int8=int8, gelu=True)
        self._transform_norm = head.transform.LayerNorm
        self._head = build(head.decoder, int8=int8)

    def seen_of(self, states: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values [heads, patches, head_size] of patch states [patches, vision width]."""

        def heads(linear: Linear) -> torch.Tensor:
            return linear(states).view(len(states), self.heads, self.head_size).transpose(0, 1).to(self.cache_dtype)

        for layer in self._layers:
            yield heads(layer.cross_key), heads(layer.cross_value)

    def forward(self, tokens: torch.Tensor, positions: torch.Tensor, looks: Looks) -> torch.Tensor:
        """Runs all layers for one token a row, whose keys and values go where `looks` says.

        tokens, positions int64 [rows]. Returns states [rows, width].
        """
        sight, add_norm = self.kernels.sight(looks, self.dtype), self.kernels.add_norm
        x = self._embed(tokens, positions)  # [rows, width]
        for index, layer in enumerate(self._layers):
            context = sight.attend_past(index, layer.qkv(x).to(self.cache_dtype))
            x = add_norm(layer.out(context), x, layer.norm)
            context = sight.attend_image(index, layer.cross_query(x).to(self.cache_dtype))
            x = add_norm(layer.cross_out(context), x, layer.cross_norm)
            x = add_norm(layer.fc2(layer.fc1(x)), x, layer.last_norm)
        return x

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[rows, width] → float32 [rows, vocabulary]."""
        return self._head(self._transform_norm(self._transform(states))).float()

    def _embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        e: Any = self._embeddings
        x: torch.Tensor = e.LayerNorm(e.word_embeddings(tokens) + e.position_embeddings(positions))
        return x
