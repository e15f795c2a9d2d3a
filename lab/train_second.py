"""Trains the second embedded captioner, a ViT with a GPT-2 as decoder; run by `python -m lab.train_all`.

It shares nothing with the first one but the world: another architecture, other pictures in another order, another
random start, and one kind of text, in which everything stands that it sees. So its mistakes are its own, and what both
say is likelier true. First the encoder alone learns which kind covers each patch, as the first captioner's does; then
both learn.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from transformers import (
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from lab import captions
from lab.augment import augment
from lab.backgrounds import BACKGROUNDS
from lab.composers import draw
from lab.fit import Batch, Course, Fit, Phase, write_down
from lab.objects import KINDS
from lab.scenes import SIZE, TRAIN_SEED
from lab.train import MEAN, STD
from lab.training_data import GRID, IGNORED, patch_labels
from lab.vocabulary import DECODE, END, PAD, write_tokenizer

WIDTH, HEADS = 192, 6
VISION_LAYERS, TEXT_LAYERS = 5, 3
TOKENS = 64
"""Of the longest text."""
FIRST_SCENE = 6_000_000
"""Number of the first scene, of none that the other models learned from."""
OTHER_START = 1
"""Added to the seed."""


class DescribedScenes(IterableDataset[dict[str, torch.Tensor]]):
    """Scenes `first`, `first + 1`, … of the training stream, each with its text.

    Items: pixels uint8 [SIZE, SIZE, 3], patches [GRID²], background [], and with text input_ids and labels [TOKENS].
    """

    def __init__(self, tokenizer: BertTokenizer, first: int, count: int, with_text: bool = True) -> None:
        self._encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self._pad, self._start, self._end = tokenizer.convert_tokens_to_ids([PAD, DECODE, END])
        self._range = range(first, first + count)
        self._with_text = with_text

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in self._range:
            rng = np.random.default_rng((TRAIN_SEED, index, 4))
            pixels, scene = augment(rng, *draw((TRAIN_SEED, index)))
            yield {
                "pixels": torch.from_numpy(np.array(pixels)),
                "patches": torch.from_numpy(patch_labels(scene)),
                "background": torch.tensor(scene.background),
                **(self._text(captions.panorama(scene)) if self._with_text else {}),
            }

    def _text(self, text: str) -> dict[str, torch.Tensor]:
        said = self._encode(text)[: TOKENS - 1]
        row = {"input_ids": torch.full((TOKENS,), self._pad), "labels": torch.full((TOKENS,), IGNORED)}
        row["input_ids"][: len(said) + 1] = torch.tensor([self._start, *said])
        row["labels"][: len(said) + 1] = torch.tensor([*said, self._end])
        return row


def model_of(tokenizer: BertTokenizer) -> VisionEncoderDecoderModel:
    pad, start, end = tokenizer.convert_tokens_to_ids([PAD, DECODE, END])
    encoder = ViTModel(
        ViTConfig(
            hidden_size=WIDTH,
            num_hidden_layers=VISION_LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH,
            image_size=SIZE,
            patch_size=SIZE // GRID,
        ),
        add_pooling_layer=False,
    )
    decoder = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=512,
            n_embd=WIDTH,
            n_layer=TEXT_LAYERS,
            n_head=HEADS,
            add_cross_attention=True,
            bos_token_id=start,
            eos_token_id=end,
            pad_token_id=pad,
        )
    )
    model: Any = VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = start, pad, end
    return model


class Trainee(nn.Module):
    """The captioner with the two heads that exist for training only."""

    def __init__(self, model: VisionEncoderDecoderModel) -> None:
        super().__init__()
        self.model = model
        self.patch_head = nn.Linear(WIDTH, len(KINDS) + 1)
        self.background_head = nn.Linear(WIDTH, len(BACKGROUNDS))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        pixels = (batch["pixels"].permute(0, 3, 1, 2).float() - self.mean) / self.std  # [B, 3, SIZE, SIZE]
        image = self.model.encoder(pixel_values=pixels).last_hidden_state  # [B, 1 + GRID², WIDTH]
        patches = F.cross_entropy(self.patch_head(image[:, 1:]).transpose(1, 2), batch["patches"])
        dense = patches + 0.1 * F.cross_entropy(self.background_head(image[:, 0]), batch["background"])
        if "labels" not in batch:
            return {"dense": dense}
        longest = int((batch["labels"] != IGNORED).sum(1).max())
        input_ids, labels = batch["input_ids"][:, :longest], batch["labels"][:, :longest]
        logits = self.model.decoder(
            input_ids=input_ids,
            attention_mask=(labels != IGNORED).long(),
            encoder_hidden_states=image,
            use_cache=False,
        ).logits  # [B, longest, vocabulary]
        return {
            "dense": dense,
            "caption": F.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED),
        }


def train(out: Path, course: Course, seed: int, vision_steps: int, steps: int, size: int = 64) -> bool:
    """Returns whether the run reached its end; `out` holds the captioner as it then is."""
    torch.manual_seed(seed + OTHER_START)
    tokenizer = write_tokenizer(out)
    fit = Fit(Trainee(model_of(tokenizer)), course)

    def pictures(first: int, count: int) -> DescribedScenes:
        return DescribedScenes(tokenizer, first, count, with_text=False)

    def texts(first: int, count: int) -> DescribedScenes:
        return DescribedScenes(tokenizer, first, count)

    ended = fit.run(
        [
            Phase.of(pictures, FIRST_SCENE, vision_steps, size, {"dense": 1.0}),
            Phase.of(texts, FIRST_SCENE + vision_steps * size, steps, size, {"caption": 1.0, "dense": 0.3}),
        ]
    )
    write_down(fit.kept.model, out, fit.log)
    tokenizer.save_pretrained(str(out))
    ViTImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=list(MEAN), image_std=list(STD), resample=3
    ).save_pretrained(str(out))
    return ended
