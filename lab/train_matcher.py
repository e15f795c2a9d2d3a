"""Trains the embedded matcher from the captioner; run by `python -m lab.train_all`.

It begins with the captioner's vision encoder and its text layers, which already find words in pictures, and learns on
drawn scenes: image–text matching (ITM) on true statements and their false twins (one thing swapped), and the contrast
of images and captions within a batch (ITC), as in BLIP (Li et al. 2022, https://arxiv.org/abs/2201.12086). Two heads
that are dropped afterwards give each layer its part of the work: after the first one, each noun says what it stands for
in the picture (`lab.grounding`); after the last but one, each token says whether it is one of those that were swapped;
the matching score has only to ask whether any is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import IterableDataset
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

from lab.augment import augment
from lab.composers import draw
from lab.fit import Batch, Course, Fit, Phase, save
from lab.grounding import FACTS, Nouns
from lab.scenes import TRAIN_SEED, Scene
from lab.statements import SWAPS, WEIGHTS, everything, junk, pair
from lab.train import MEAN, STD
from lab.training_data import IGNORED
from lab.vocabulary import write_tokenizer

PACK = 224
"""Tokens of a packed row of statements."""
MAX_PAIRS = 8
CAPTION_TOKENS = 48
TEMPERATURE = 0.05
JUNK = 0.05
"""Share of the false statements that are no statements, such as file names."""
UNKNOWN = 0.2
"""Share of the pictures that show nothing that has a word."""
FIRST_SCENE = 2_000_000
"""Number of the first scene, of none that the captioner learned from."""
LOSSES = {"itm": 1.0, "tokens": 2.0, "facts": 0.5, "itc": 0.1}
"""How much each loss counts."""
NONE = -1
"""Label of a place without a statement."""


class MatchingTexts(IterableDataset[dict[str, torch.Tensor]]):
    """Scenes `first`, `first + 1`, … of the training stream, each with true statements and their false twins.

    Items: pixels uint8 [SIZE, SIZE, 3]; [PACK] each of input_ids, position_ids, text_ids (0 = padding), facts
    (`lab.grounding`) and swapped (1 for a token that makes its statement false, IGNORED for padding);
    starts and labels [2 × MAX_PAIRS] (where each statement begins; 1 true, 0 false, NONE); caption
    [CAPTION_TOKENS], padded with 0.
    """

    def __init__(self, tokenizer: BertTokenizer, first: int, count: int) -> None:
        self._encode = lambda text: tokenizer(text)["input_ids"]
        self._nouns = Nouns(tokenizer)
        self._range = range(first, first + count)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in self._range:
            rng = np.random.default_rng((TRAIN_SEED, index, 2))
            pixels, scene = augment(rng, *draw((TRAIN_SEED, index), UNKNOWN))
            caption = torch.zeros(CAPTION_TOKENS, dtype=torch.long)
            ids = self._encode(everything(scene))[:CAPTION_TOKENS]
            caption[: len(ids)] = torch.tensor(ids)
            weights = [WEIGHTS[name] for name in SWAPS]
            pairs = (_pair(rng, scene, weights) for _ in range(MAX_PAIRS))
            yield {"pixels": torch.from_numpy(np.array(pixels)), "caption": caption, **self._pack(scene, pairs)}

    def _pack(self, scene: Scene, pairs: Iterator[tuple[str, str]]) -> dict[str, torch.Tensor]:
        row = {name: torch.zeros(PACK, dtype=torch.long) for name in ("input_ids", "position_ids", "text_ids")}
        row |= {name: torch.full((PACK,), IGNORED) for name in ("swapped", "facts")}
        starts = torch.zeros(2 * MAX_PAIRS, dtype=torch.long)
        labels = torch.full((2 * MAX_PAIRS,), NONE)
        at, number = 0, 0
        for texts in pairs:
            encoded = [self._encode(text) for text in texts]
            if at + sum(map(len, encoded)) > PACK:
                break
            marks = ([0] * len(encoded[0]), _swapped(*encoded))
            for label, ids, swapped in zip((1, 0), encoded, marks, strict=True):
                end = at + len(ids)
                row["input_ids"][at:end] = torch.tensor(ids)
                row["position_ids"][at:end] = torch.arange(len(ids))
                row["text_ids"][at:end] = number + 1
                row["swapped"][at:end] = torch.tensor(swapped)
                row["facts"][at:end] = torch.tensor(self._nouns.facts(ids, scene))
                starts[number], labels[number] = at, label
                at, number = end, number + 1
        return {**row, "starts": starts, "labels": labels}


def _pair(rng: np.random.Generator, scene: Scene, weights: list[float]) -> tuple[str, str]:
    true, false = pair(rng, scene, weights)[1:]
    return true, junk(rng) if rng.random() < JUNK else false


def _swapped(true: list[int], false: list[int]) -> list[int]:
    """For each token of the false statement, 1 where it differs from the true one."""
    marks = [0] * len(false)
    for name, _, _, start, end in SequenceMatcher(None, true, false, autojunk=False).get_opcodes():
        if name != "equal":
            marks[start : max(end, start + 1)] = [1] * max(end - start, 1)
    return marks[: len(false)]


class Trainee(nn.Module):
    """The matcher with its losses, and the heads that exist for training only."""

    def __init__(self, blip: BlipForImageTextRetrieval) -> None:
        super().__init__()
        self.blip = blip
        width = blip.config.text_config.hidden_size
        self.token_head = nn.Linear(width, 2)
        self.fact_head = nn.Linear(width, FACTS)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        pixels = (batch["pixels"].permute(0, 3, 1, 2).float() - self.mean) / self.std  # [B, 3, SIZE, SIZE]
        image = self.blip.vision_model(pixel_values=pixels).last_hidden_state  # [B, 1 + patches, width]
        return {**self._matching(image, batch), "itc": self._contrast(image, batch)}

    def _matching(self, image: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
        texts = batch["text_ids"]  # [B, PACK]
        found = self.blip.text_encoder(
            input_ids=batch["input_ids"],
            attention_mask=additive(texts[:, None, :, None] == texts[:, None, None, :]),  # [B, 1, PACK, PACK]
            position_ids=batch["position_ids"],
            encoder_hidden_states=image,
            output_hidden_states=True,
        )
        states, before, first_layer = found.last_hidden_state, found.hidden_states[-2], found.hidden_states[1]
        rows = torch.arange(len(states))[:, None]
        wanted = batch["labels"] != NONE
        first = states[rows, batch["starts"]][wanted]  # [statements, width]
        facts = self.fact_head(first_layer).float().transpose(1, 2)  # [B, FACTS, PACK]
        # Of the layer before the last, so that the last can gather what the tokens found.
        tokens = self.token_head(before).float().transpose(1, 2)  # [B, 2, PACK]
        return {
            "itm": F.cross_entropy(self.blip.itm_head(first).float(), batch["labels"][wanted]),
            "tokens": F.cross_entropy(tokens, batch["swapped"], torch.tensor([1.0, 3.0]), ignore_index=IGNORED),
            "facts": F.cross_entropy(facts, batch["facts"], ignore_index=IGNORED),
        }

    def _contrast(self, image: torch.Tensor, batch: Batch) -> torch.Tensor:
        captions = batch["caption"]  # [B, CAPTION_TOKENS]
        longest = int((captions != 0).sum(1).max())
        captions = captions[:, :longest]
        states = self.blip.text_encoder(
            input_ids=captions, attention_mask=additive((captions != 0)[:, None, None, :])
        ).last_hidden_state
        images = F.normalize(self.blip.vision_proj(image[:, 0]).float(), dim=-1)  # [B, projection]
        texts = F.normalize(self.blip.text_proj(states[:, 0]).float(), dim=-1)
        similarity = images @ texts.T / TEMPERATURE
        same = (
            (captions[:, None] == captions[None]).all(-1).float()
        )  # [B, B] pictures with one caption are one another's
        wanted = same / same.sum(1, keepdim=True)
        return (F.cross_entropy(similarity, wanted) + F.cross_entropy(similarity.T, wanted)) / 2


def additive(visible: torch.Tensor) -> torch.Tensor:
    """BLIP's text layers add their mask to the scores; a boolean one, or a mask of ones and zeros, hides nothing."""
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)


def grown(weight: torch.Tensor, rows: int, std: float) -> torch.Tensor:
    """`weight` with normal noise for the rows that it lacks."""
    return torch.cat([weight, torch.randn(rows - len(weight), weight.shape[1]) * std])


def begin(captioner: Path, tokenizer: BertTokenizer) -> BlipForImageTextRetrieval:
    """A matcher with the captioner's vision encoder and text layers."""
    trained = BlipForConditionalGeneration.from_pretrained(str(captioner), dtype=torch.float32)
    config: Any = BlipConfig.from_dict(copy.deepcopy(trained.config.to_dict()))
    config.architectures = None
    config.text_config.vocab_size = len(tokenizer)
    blip = BlipForImageTextRetrieval(config)
    blip.vision_model.load_state_dict(trained.vision_model.state_dict())
    layers = {name: value for name, value in trained.text_decoder.bert.state_dict().items() if "pooler" not in name}
    name = "embeddings.word_embeddings.weight"
    layers[name] = grown(layers[name], len(tokenizer), 0.02)
    blip.text_encoder.load_state_dict(layers)
    return blip


def train(out: Path, course: Course, seed: int, captioner: Path, steps: int, size: int = 48) -> bool:
    """Returns whether the run reached its end; `out` holds the matcher as it then is."""
    torch.manual_seed(seed)
    tokenizer = write_tokenizer(out, for_tasks=True)
    fit = Fit(Trainee(begin(captioner, tokenizer)), course)

    def examples(first: int, count: int) -> MatchingTexts:
        return MatchingTexts(tokenizer, first, count)

    ended = fit.run([Phase.of(examples, FIRST_SCENE, steps, size, LOSSES)])
    save(fit.kept.blip, tokenizer, out, fit.log)
    return ended
