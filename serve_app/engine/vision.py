"""BLIP's vision encoder on prepared linear layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.blip.modeling_blip import BlipVisionModel

from serve_app.engine.linear import Linear, build
from serve_app.engine.precision import cast


@dataclass(frozen=True, slots=True)
class _Layer:
    norm1: nn.Module
    qkv: Linear
    projection: Linear
    norm2: nn.Module
    fc1: Linear
    fc2: Linear


class VisionEncoder:
    """Pixels to patch states, as `BlipVisionModel`'s `last_hidden_state`, without keeping attention maps."""

    def __init__(self, model: BlipVisionModel, dtype: torch.dtype) -> None:
        """Prepares the layers in `dtype`; the model itself is moved to it."""
        vision = cast(model, dtype)
        self._dtype = dtype
        self._embeddings, self._norm = vision.embeddings, vision.post_layernorm
        self._heads: int = model.config.num_attention_heads
        self._layers = [
            _Layer(
                layer.layer_norm1,
                build(layer.self_attn.qkv),
                build(layer.self_attn.projection),
                layer.layer_norm2,
                build(layer.mlp.fc1, gelu=True),
                build(layer.mlp.fc2),
            )
            for layer in vision.encoder.layers
        ]

    def __call__(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[images, 3, height, width] normalised → [images, patches, width]; the first patch is the class token."""
        x = self._embeddings(pixel_values.to(self._dtype))
        images, patches, width = x.shape
        x = x.flatten(0, 1)
        for layer in self._layers:
            qkv = layer.qkv(layer.norm1(x)).view(images, patches, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            context = F.scaled_dot_product_attention(*qkv)  # [images, heads, patches, head_size]
            x = x + layer.projection(context.transpose(1, 2).reshape(images * patches, width))
            x = x + layer.fc2(layer.fc1(layer.norm2(x)))
        states: torch.Tensor = self._norm(x).view(images, patches, width)
        return states
