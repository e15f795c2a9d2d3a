"""Trains the embedded captioner from scratch; run by `python -m lab.train_all`.

Two phases. First the vision encoder alone learns which kind covers each patch and which background
is behind them (two linear heads that are dropped afterwards); then captions and patches together.
Dense labels make recognition quick to learn; the captions then have only the language to find.
The same seed, number of steps and thread count give the same weights on the same machine.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

from lab.backgrounds import BACKGROUNDS
from lab.fit import Batch, Course, Fit, Phase, save
from lab.objects import KINDS
from lab.scenes import SIZE
from lab.training_data import GRID, IGNORED, SceneTexts
from lab.vocabulary import DECODE, END, PAD, write_tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""BLIP's normalisation, that of CLIP (`BlipImageProcessor`'s defaults)."""


def model_config(tokenizer: BertTokenizer) -> BlipConfig:
    pad, end, start = tokenizer.convert_tokens_to_ids([PAD, END, DECODE])
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 192,
        "encoder_hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "max_position_embeddings": 512,
        "bos_token_id": start,
        "pad_token_id": pad,
        "sep_token_id": end,
        "eos_token_id": end,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "image_size": SIZE,
        "patch_size": SIZE // GRID,
        "initializer_range": 0.02,
    }
    return BlipConfig(text_config=text, vision_config=vision, projection_dim=192, image_text_hidden_size=192)


class Trainee(nn.Module):
    """The captioner with the two heads that exist for training only."""

    def __init__(self, config: BlipConfig) -> None:
        super().__init__()
        self.blip = BlipForConditionalGeneration(config)
        for name in ("class_embedding", "position_embedding"):
            nn.init.normal_(getattr(self.blip.vision_model.embeddings, name), std=0.02)
        width = config.vision_config.hidden_size
        self.patch_head = nn.Linear(width, len(KINDS) + 1)
        self.background_head = nn.Linear(width, len(BACKGROUNDS))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Returns the dense vision loss and, where the batch has texts, the caption loss."""
        pixels = (batch["pixels"].permute(0, 3, 1, 2).float() - self.mean) / self.std  # [B, 3, SIZE, SIZE]
        image = self.blip.vision_model(pixel_values=pixels).last_hidden_state  # [B, 1 + GRID², width]
        patches = F.cross_entropy(self.patch_head(image[:, 1:]).transpose(1, 2), batch["patches"])
        background = F.cross_entropy(self.background_head(image[:, 0]), batch["background"])
        dense = patches + 0.1 * background
        if "input_ids" not in batch:
            return {"dense": dense}
        return {"dense": dense, "caption": self._caption_loss(image, batch)}

    def _caption_loss(self, image: torch.Tensor, batch: Batch) -> torch.Tensor:
        texts = batch["text_ids"]  # [B, PACK]
        visible = (texts[:, :, None] == texts[:, None, :]).tril()[:, None]  # [B, 1, PACK, PACK]
        # The decoder adds its mask to the scores, so a boolean one would hide nothing.
        mask = torch.zeros(visible.shape, dtype=image.dtype).masked_fill(~visible, torch.finfo(image.dtype).min)
        states = self.blip.text_decoder.bert(
            input_ids=batch["input_ids"],
            attention_mask=mask,
            position_ids=batch["position_ids"],
            encoder_hidden_states=image,
            is_decoder=True,
            use_cache=False,
        ).last_hidden_state
        wanted = batch["labels"] != IGNORED
        logits = self.blip.text_decoder.cls(states[wanted])  # [answers, vocabulary]
        return F.cross_entropy(logits.float(), batch["labels"][wanted])


def train(out: Path, course: Course, seed: int, vision_steps: int, steps: int, size: int = 64) -> bool:
    """Returns whether the run reached its end; `out` holds the captioner as it then is."""
    torch.manual_seed(seed)
    tokenizer = write_tokenizer(out)
    fit = Fit(Trainee(model_config(tokenizer)), course)

    def pictures(first: int, count: int) -> SceneTexts:
        return SceneTexts(tokenizer, first, count, with_text=False)

    def texts(first: int, count: int) -> SceneTexts:
        return SceneTexts(tokenizer, first, count)

    ended = fit.run(
        [
            Phase.of(pictures, 0, vision_steps, size, {"dense": 1.0}),
            Phase.of(texts, vision_steps * size, steps, size, {"caption": 1.0, "dense": 0.3}),
        ]
    )
    fit.kept.blip.generation_config.max_length = 60
    save(fit.kept.blip, tokenizer, out, fit.log)
    return ended
