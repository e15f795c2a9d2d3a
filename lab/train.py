"""Trains the embedded model from scratch: `python -m lab.train --out serve_app/models/demo`.

Two phases. First the vision encoder alone learns which kind covers each patch and which background
is behind them (two linear heads that are dropped afterwards); then captions and patches together.
Dense labels make recognition quick to learn; the captions then have only the language to find.
The same seed, number of steps and thread count give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration

from lab.backgrounds import BACKGROUNDS
from lab.fit import Batch, Fit, save
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


def _batches(
    tokenizer: BertTokenizer, first: int, steps: int, size: int, with_text: bool
) -> Iterator[dict[str, torch.Tensor]]:
    data = SceneTexts(tokenizer, first, steps * size, with_text)
    return iter(DataLoader(data, batch_size=size, num_workers=1, prefetch_factor=6))


def _save(model: BlipForConditionalGeneration, tokenizer: BertTokenizer, out: Path) -> None:
    model.generation_config.max_length = 60
    save(model, tokenizer, out)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    tokenizer = write_tokenizer(args.out)
    model = Trainee(model_config(tokenizer))
    if args.vision_from is not None:
        trained = BlipForConditionalGeneration.from_pretrained(str(args.vision_from), dtype=torch.float32)
        model.blip.vision_model.load_state_dict(trained.vision_model.state_dict())
    total = args.vision_steps + args.steps
    fit = Fit(
        model,
        total,
        args.learning_rate,
        args.bf16,
        lambda kept: _save(kept.blip, tokenizer, args.out),
        args.log_every,
        args.save_every,
    )
    first, size = args.first_scene, args.batch_size
    fit.phase(_batches(tokenizer, first, args.vision_steps, size, with_text=False), {"dense": 1.0})
    first += args.vision_steps * size
    fit.phase(_batches(tokenizer, first, args.steps, size, with_text=True), {"caption": 1.0, "dense": 0.3})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("serve_app/models/demo"))
    parser.add_argument("--vision-from", type=Path, help="a checkpoint whose vision encoder to begin with")
    parser.add_argument("--first-scene", type=int, default=0, help="number of the first training scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=400)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
