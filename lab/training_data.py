"""Training examples: an augmented scene and several of its prompts with answers, packed into one row.

Packing lets all texts of an image share its cross-attention keys and wastes no compute on padding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import IterableDataset
from transformers import BertTokenizer

from lab import captions
from lab.augment import augment
from lab.composers import draw
from lab.objects import KINDS
from lab.scenes import TRAIN_SEED, Scene
from lab.vocabulary import DECODE, END
from serve_app.pipeline import presets

PACK = 128
"""Tokens of a packed row."""
GRID = 10
"""Patches along a side; the model sees GRID × GRID of them."""
IGNORED = -100

_KIND_INDEX = {kind.noun: index for index, kind in enumerate(KINDS)}
_SMALL_WORDS = ("some", "thing", "my", "new", "very", "nice", "old", "tell", "me", "write", "show", "please", "any")


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids of one caption: `inputs` and what each position has to predict (`labels`)."""

    inputs: list[int]
    labels: list[int]


class Writer:
    """Turns scenes into prompts and answers as token ids."""

    def __init__(self, tokenizer: BertTokenizer) -> None:
        self._encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self._start, self._end = tokenizer.convert_tokens_to_ids([DECODE, END])
        self._size = len(tokenizer)

    def text(self, rng: np.random.Generator, prompt: str, answer: str) -> Text:
        """One caption with noise in its inputs, so that decoding recovers from a wrong word.

        With some probability random words follow the end, each labelled as the end again: beam
        sampling reaches such states, and there the model must keep saying that it has finished.
        """
        head, tail = [self._start, *self._encode(prompt)], self._encode(answer)
        inputs = np.array(head + tail)
        labels = [IGNORED] * (len(head) - 1) + tail + [self._end]
        if rng.random() < 0.3:
            wrong = rng.random(len(inputs)) < 0.06
            wrong[: len(head)] = False
            inputs[wrong] = rng.integers(5, self._size, int(wrong.sum()))
        if rng.random() < 0.3:
            extra = int(rng.integers(1, 6))
            inputs = np.concatenate([inputs, rng.integers(5, self._size, extra)])
            labels += [self._end] * extra
        return Text(inputs.tolist(), labels)

    def short(self, rng: np.random.Generator, scene: Scene) -> Iterator[Text]:
        """The unconditional caption or a plain prompt, and the four variants, in random order."""
        pairs = [(prompt, rule(scene)) for prompt, rule in zip(presets.VARIANT_PROMPTS, captions.VARIANTS, strict=True)]
        roll = rng.random()
        if roll < 0.6:
            pairs.append(("", captions.unconditional(scene)))
        else:
            known = captions.PLAIN_PROMPTS[int(rng.integers(len(captions.PLAIN_PROMPTS)))]
            pairs.append((known if roll < 0.8 else _unknown_prompt(rng), captions.plain(scene)))
        for index in rng.permutation(len(pairs)):
            yield self.text(rng, *pairs[index])

    def long(self, rng: np.random.Generator, scene: Scene) -> Text:
        """An extension or round prompt that carries a caption."""
        caption = _merged(rng, scene)
        if rng.random() < 0.35:
            prompt = presets.EXTENSION_PROMPTS[int(rng.integers(len(presets.EXTENSION_PROMPTS)))]
            return self.text(rng, prompt.format(caption=caption), captions.extension(scene, caption))
        for _ in range(int(rng.choice(3, p=(0.45, 0.4, 0.15)))):
            caption += captions.refinement(scene, caption)
        return self.text(rng, presets.ROUND_PROMPT.format(caption=caption), captions.refinement(scene, caption))


def _unknown_prompt(rng: np.random.Generator) -> str:
    words = [_SMALL_WORDS[int(rng.integers(len(_SMALL_WORDS)))] for _ in range(int(rng.integers(1, 4)))]
    if rng.random() < 0.3:
        words.append("".join(chr(97 + int(c)) for c in rng.integers(0, 26, int(rng.integers(3, 8)))))
    return " ".join(words)


def _merged(rng: np.random.Generator, scene: Scene) -> str:
    """A caption as the merge step may leave it: with or without gathered words, sometimes with a gap."""
    texts = [rule(scene) for rule in captions.VARIANTS]
    base = texts[int(rng.choice(4, p=(0.1, 0.2, 0.5, 0.2)))]
    roll = rng.random()
    if roll < 0.12:
        words = base.split()
        words.pop(int(rng.integers(len(words))))
        base = " ".join(words)
    if roll > 0.5:
        texts = [texts[int(i)] for i in rng.permutation(4)[: int(rng.integers(2, 5))]]
        gathered = dict.fromkeys(w for text in texts for w in text.replace(",", "").split() if len(w) > 3)
        base = f"the image shows {', '.join(list(gathered)[:15])}. {base}"
    elif len(scene.groups) == 1 and roll > 0.25:
        base += captions.extension(scene, base)
    return base


def patch_labels(scene: Scene) -> np.ndarray:
    """[GRID * GRID] kind of the thing of which each patch shows most, `len(KINDS)` for none.

    A patch shows a thing if that covers a third of the patch, or if a third of the thing lies on it.
    """
    labels = np.full((GRID, GRID), len(KINDS))
    best = np.full((GRID, GRID), 0.33)
    edges = np.arange(GRID + 1) / GRID
    for group in scene.groups:
        for left, top, right, bottom in group.boxes:
            across = np.clip(np.minimum(edges[1:], right) - np.maximum(edges[:-1], left), 0, None) * GRID
            down = np.clip(np.minimum(edges[1:], bottom) - np.maximum(edges[:-1], top), 0, None) * GRID
            cover = down[:, None] * across[None, :]
            cover = np.maximum(cover, cover / ((right - left) * (bottom - top) * GRID**2))
            labels[cover >= best] = _KIND_INDEX[group.noun]
            best = np.maximum(best, cover)  # of equals the later: small things lie before large ones
    return labels.ravel()


def _pack(texts: list[Text]) -> dict[str, torch.Tensor]:
    row = {name: torch.zeros(PACK, dtype=torch.long) for name in ("input_ids", "position_ids", "text_ids")}
    row["labels"] = torch.full((PACK,), IGNORED)
    at = 0
    for number, text in enumerate(texts, start=1):
        end = at + len(text.inputs)
        row["input_ids"][at:end] = torch.tensor(text.inputs)
        row["labels"][at:end] = torch.tensor(text.labels)
        row["position_ids"][at:end] = torch.arange(end - at)
        row["text_ids"][at:end] = number
        at = end
    return row


class SceneTexts(IterableDataset[dict[str, torch.Tensor]]):
    """Examples `first`, `first + 1`, … of the training stream; each depends on its number only.

    Items: pixels uint8 [SIZE, SIZE, 3], patches [GRID²], background [], and [PACK] each of
    input_ids, position_ids, text_ids (0 = padding) and labels.
    """

    def __init__(self, tokenizer: BertTokenizer, first: int, count: int, with_text: bool = True) -> None:
        self._writer = Writer(tokenizer)
        self._range = range(first, first + count)
        self._with_text = with_text

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in self._range:
            rng = np.random.default_rng((TRAIN_SEED, index, 1))
            pixels, scene = augment(rng, *draw((TRAIN_SEED, index)))
            yield {
                "pixels": torch.from_numpy(np.array(pixels)),
                "patches": torch.from_numpy(patch_labels(scene)),
                "background": torch.tensor(scene.background),
                **(_pack(self._choose(rng, scene)) if self._with_text else {}),
            }

    def _choose(self, rng: np.random.Generator, scene: Scene) -> list[Text]:
        texts, room = [], PACK
        if rng.random() < 0.4:
            texts.append(self._writer.long(rng, scene))
            room -= len(texts[0].inputs)
            if room < 0:
                texts, room = [], PACK
        for text in self._writer.short(rng, scene):
            if len(text.inputs) <= room:
                texts.append(text)
                room -= len(text.inputs)
        return texts
