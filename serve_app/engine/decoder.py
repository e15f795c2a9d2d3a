"""BLIP's text decoder, one token a row: the forward pass of the engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from serve_app.engine.image_cache import EncodedImage
from serve_app.engine.linear import ROW_MULTIPLE, Linear, build
from serve_app.engine.node_cache import NodeCache
from serve_app.engine.precision import Precision
from serve_app.errors import ModelUnsupported


@dataclass(frozen=True)
class Segment:
    """Rows of a batch that lie together: `width` rows of each slot from `first` on, all in one cache.

    nodes [slots, width]: where the rows' own keys and values go. mask [slots, width, extent]: which
    nodes they see, their own included.
    """

    cache: NodeCache
    first: int
    nodes: torch.Tensor
    mask: torch.Tensor

    @functools.cached_property
    def slots(self) -> torch.Tensor:
        """[slots, 1]"""
        return torch.arange(self.first, self.first + len(self.nodes), device=self.nodes.device)[:, None]


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

    def __init__(self, model: BlipTextLMHeadModel, precision: Precision) -> None:
        """Prepares the layers; the model itself is moved to their dtype. Raises `ModelUnsupported`."""
        config = model.config
        if config.hidden_act != "gelu":
            raise ModelUnsupported(f"The engine knows the activation gelu, not {config.hidden_act!r}.")
        text: Any = nn.Module.to(model, dtype=precision.dtype)
        bert, head = text.bert, text.cls.predictions
        int8 = precision.int8
        self.layers: int = config.num_hidden_layers
        self.heads: int = config.num_attention_heads
        self.head_size: int = config.hidden_size // config.num_attention_heads
        self.vocabulary: int = config.vocab_size
        self.dtype, self.cache_dtype = precision.dtype, precision.cache_dtype
        self.device: torch.device = head.decoder.weight.device
        self._width: int = config.hidden_size
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
                cross_key=build(nn.Module.to(layer.crossattention.self.key, dtype=precision.vision_dtype)),
                cross_value=build(nn.Module.to(layer.crossattention.self.value, dtype=precision.vision_dtype)),
            )
            for layer in bert.encoder.layer
        ]
        self._transform = build(head.transform.dense, int8=int8, gelu=True)
        self._transform_norm = head.transform.LayerNorm
        self._head = build(head.decoder, int8=int8)

    def encode(self, digest: str, states: torch.Tensor) -> EncodedImage:
        """Cross-attention keys and values of patch states [patches, vision width]."""

        def heads(linear: Linear) -> torch.Tensor:
            flat = linear(states).to(self.cache_dtype)
            return flat.view(len(states), self.heads, self.head_size).transpose(0, 1).contiguous()

        keys = [heads(layer.cross_key) for layer in self._layers]
        return EncodedImage(digest, keys, [heads(layer.cross_value) for layer in self._layers])

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        segments: Sequence[Segment],
        images: Sequence[tuple[EncodedImage, torch.Tensor | None]],
    ) -> torch.Tensor:
        """Runs all layers for one token a row; fills the segments' nodes.

        tokens, positions int64 [rows], the segments' rows one after the other. images: each with the
        places [n] of its rows, None for all. Returns states [rows, width].
        """
        rows = len(tokens)
        padding = -rows % ROW_MULTIPLE if self.device.type == "cpu" else 0
        x = self._embed(F.pad(tokens, (0, padding)), F.pad(positions, (0, padding)))  # [rows + padding, width]
        context = torch.zeros(len(x), self._width, dtype=self.cache_dtype, device=self.device)
        for index, layer in enumerate(self._layers):
            self._attend_past(index, layer.qkv(x).to(self.cache_dtype), segments, context)
            x = layer.norm(layer.out(context.to(x.dtype)) + x)
            self._attend_images(index, layer.cross_query(x).to(self.cache_dtype)[:rows], images, context)
            x = layer.cross_norm(layer.cross_out(context.to(x.dtype)) + x)
            x = layer.last_norm(layer.fc2(layer.fc1(x)) + x)
        return x[:rows]

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """[rows, width] → float32 [rows, vocabulary]."""
        padding = -len(states) % ROW_MULTIPLE if self.device.type == "cpu" else 0
        x = F.pad(states, (0, 0, 0, padding))
        return self._head(self._transform_norm(self._transform(x)))[: len(states)].float()

    def _embed(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        e: Any = self._embeddings
        x: torch.Tensor = e.LayerNorm(e.word_embeddings(tokens) + e.position_embeddings(positions))
        return x

    def _attend_past(self, index: int, qkv: torch.Tensor, segments: Sequence[Segment], context: torch.Tensor) -> None:
        start = 0
        for segment in segments:
            count, width = segment.nodes.shape
            stop = start + count * width
            q, k, v = qkv[start:stop].view(count, width, 3, self.heads, self.head_size).unbind(2)
            keys, values = segment.cache.keys[index], segment.cache.values[index]
            slots = slice(segment.first, segment.first + count)
            keys[segment.slots, :, segment.nodes] = k
            values[segment.slots, :, segment.nodes] = v
            extent = segment.mask.shape[-1]
            scores = torch.matmul(q.transpose(1, 2), keys[slots, :, :extent].transpose(-1, -2))
            weights = scores.add_(segment.mask[:, None]).softmax(-1)  # [count, heads, width, extent]
            seen = torch.matmul(weights, values[slots, :, :extent])  # [count, heads, width, head_size]
            context[start:stop].view(count, width, self.heads, self.head_size).copy_(seen.transpose(1, 2))
            start = stop

    def _attend_images(
        self,
        index: int,
        query: torch.Tensor,
        images: Sequence[tuple[EncodedImage, torch.Tensor | None]],
        context: torch.Tensor,
    ) -> None:
        for image, places in images:
            q = query if places is None else query[places]
            q = q.view(-1, self.heads, self.head_size).transpose(0, 1)  # [heads, n, head_size]
            weights = torch.bmm(q, image.keys[index].transpose(1, 2)).softmax(-1)  # [heads, n, patches]
            seen = torch.bmm(weights, image.values[index]).transpose(0, 1).flatten(1)  # [n, width]
            if places is None:
                context[: len(seen)] = seen
            else:
                context[places] = seen
