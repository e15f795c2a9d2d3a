"""BLIP models with random weights: as fast or slow as trained ones, and every beam runs to its full length."""

from __future__ import annotations

import torch
from transformers import AutoTokenizer, BlipConfig, BlipForConditionalGeneration
from transformers.initialization import no_init_weights

from serve_app.engine.blip import IMAGE_MEAN, IMAGE_STD
from serve_app.engine.checkpoint import DEMO_DIRECTORY
from serve_app.engine.loading import Loaded
from serve_app.engine.precision import Precision
from serve_app.types import ModelInfo

LARGE_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
"""Of Salesforce/blip-image-captioning-large's config.json; its text decoder is `BlipTextConfig`'s default but for
`encoder_hidden_size` 1024."""


def large_config() -> BlipConfig:
    vision = {**LARGE_VISION, "image_size": 384, "patch_size": 16}
    text = {"encoder_hidden_size": 1024, "num_attention_heads": 12, "vocab_size": 30524}
    return BlipConfig(text_config=text, vision_config=vision)


def middle_config() -> BlipConfig:
    """Small enough for tests, and unlike the embedded model in every size."""
    vision = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {
        "hidden_size": 256, "encoder_hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "vocab_size": 2000, "bos_token_id": 1998,
    }  # fmt: skip
    return BlipConfig(text_config=text, vision_config={**vision, "image_size": 64, "patch_size": 16})


def pretended_blip(config: BlipConfig, dtype: str, device: torch.device) -> Loaded:
    """A captioner of tensors without data, for use inside `Rehearsal.rehearsed()`."""
    precision = Precision.of(dtype, device)
    with torch.device("meta"), no_init_weights():
        model = BlipForConditionalGeneration(config).eval()
    for module in model.modules():
        for name, tensor in module.named_parameters(recurse=False):
            empty = torch.empty(tensor.shape, dtype=precision.dtype, device=device)
            setattr(module, name, torch.nn.Parameter(empty, requires_grad=False))
        for name, tensor in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    return _loaded(model, config, precision, device)


def random_blip(config: BlipConfig, dtype: str = "float32", device: str = "cpu", seed: int = 0) -> Loaded:
    """A captioner with weights from `seed`; its tokenizer is the embedded model's."""
    torch.manual_seed(seed)
    # The configuration's own default for the vision encoder, 1e-10, would make all images alike.
    config.vision_config.initializer_range = 0.02
    target = torch.device(device)
    precision = Precision.of(dtype, target)
    model = BlipForConditionalGeneration(config).to(precision.dtype).to(target).eval()
    return _loaded(model, config, precision, target)


def _loaded(
    model: BlipForConditionalGeneration, config: BlipConfig, precision: Precision, device: torch.device
) -> Loaded:
    size = config.vision_config.image_size
    positions = config.text_config.max_position_embeddings
    info = ModelInfo("random", size, size, positions, precision.name, str(device))
    return Loaded(model, AutoTokenizer.from_pretrained(str(DEMO_DIRECTORY)), IMAGE_MEAN, IMAGE_STD, info, precision)
