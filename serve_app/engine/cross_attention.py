"""Masks of BLIP's cross-attention."""

from __future__ import annotations

from typing import Any


def heed_masks(text_model: Any) -> None:
    """Makes the cross-attention of a `BlipTextModel` heed `encoder_attention_mask`.

    transformers 5.23 hands that mask on as `attention_mask`, which its cross-attention replaces by nothing, so that
    padding of the encoder's states is attended to. Calls without a mask are as before.
    """
    for layer in text_model.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(_moved, with_kwargs=True)


def _moved(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if named.get("encoder_attention_mask") is None and len(arguments) < 2:
        named = {**named, "encoder_attention_mask": named.get("attention_mask")}
    return arguments, named
