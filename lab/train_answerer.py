"""Trains the embedded question answering model from the other two; run by `python -m lab.train_all`.

Its vision encoder and the question's encoder begin with the embedded matcher's, the answer's decoder with the
captioner's, and all learn from questions about drawn scenes. The decoder sees the picture through the question's states
only. Two heads that are dropped afterwards say what these have to hold: after the first layer, each noun of a question
what it stands for (`lab.grounding`); after the last, the question's tokens in their order the kinds of the answer.
"""

from __future__ import annotations

import copy
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
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from lab.augment import augment
from lab.composers import draw
from lab.fit import Batch, Course, Fit, Phase, save
from lab.grounding import FACTS, NAMES, NOTHING, Nouns
from lab.questions import LISTS, ask
from lab.scenes import TRAIN_SEED, Scene
from lab.train import MEAN, STD
from lab.train_matcher import additive, grown
from lab.training_data import IGNORED
from lab.vocabulary import DECODE, END, write_tokenizer
from serve_app.engine.answering import heed_masks

QUESTION_PACK, ANSWER_PACK = 160, 112
"""Tokens of the packed rows of questions and of answers."""
MAX_QUESTIONS = 14
MOST_NAMED = 4
"""Kinds in an answer."""
WEIGHTS = {
    "what is in a cell": 0.16,
    "what is on a side": 0.14,
    "what is there": 0.12,
    "how many": 0.09,
    "where": 0.12,
    "is there": 0.06,
    "is it there": 0.09,
    "size": 0.05,
    "color": 0.03,
    "what lies there": 0.07,
    "does it lie there": 0.04,
    "background": 0.03,
}
"""How often training asks what: places are hardest to learn."""
FIRST_SCENE = 4_000_000
"""Number of the first scene, of none that the other two learned from."""
LOSSES = {"answer": 1.0, "facts": 0.5, "names": 0.5}
"""How much each loss counts."""


class AskedScenes(IterableDataset[dict[str, torch.Tensor]]):
    """Scenes `first`, `first + 1`, … of the training stream, each with questions and answers.

    Items: pixels uint8 [SIZE, SIZE, 3]; [QUESTION_PACK] each of input_ids, position_ids, text_ids (0 = padding), facts
    and names (`lab.grounding`); [ANSWER_PACK] each of answer_ids, answer_positions, answer_of (the question's number)
    and labels.
    """

    def __init__(self, tokenizer: BertTokenizer, first: int, count: int) -> None:
        self._question = lambda text: tokenizer(text)["input_ids"]
        self._answer = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        self._nouns = Nouns(tokenizer)
        self._start, self._end = tokenizer.convert_tokens_to_ids([DECODE, END])
        self._range = range(first, first + count)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for index in self._range:
            rng = np.random.default_rng((TRAIN_SEED, index, 3))
            pixels, scene = augment(rng, *draw((TRAIN_SEED, index)))
            asked = (ask(rng, scene, WEIGHTS) for _ in range(MAX_QUESTIONS))
            yield {"pixels": torch.from_numpy(np.array(pixels)), **self._pack(scene, asked)}

    def _pack(self, scene: Scene, questions: Iterator[tuple[str, str, str]]) -> dict[str, torch.Tensor]:
        names = ("input_ids", "position_ids", "text_ids"), ("answer_ids", "answer_positions", "answer_of")
        row = {name: torch.zeros(QUESTION_PACK, dtype=torch.long) for name in names[0]}
        row |= {name: torch.zeros(ANSWER_PACK, dtype=torch.long) for name in names[1]}
        row |= {name: torch.full((QUESTION_PACK,), IGNORED) for name in ("facts", "names")}
        row["labels"] = torch.full((ANSWER_PACK,), IGNORED)
        at, answer_at = 0, 0
        for number, (kind, question, answer) in enumerate(questions, start=1):
            asked, said = self._question(question), self._answer(answer)
            end, answer_end = at + len(asked), answer_at + len(said) + 1
            if end > QUESTION_PACK or answer_end > ANSWER_PACK:
                break
            row["input_ids"][at:end] = torch.tensor(asked)
            row["position_ids"][at:end] = torch.arange(len(asked))
            row["text_ids"][at:end] = number
            row["facts"][at:end] = torch.tensor(self._nouns.facts(asked, scene))
            if kind in LISTS:
                names = self._nouns.names(said, scene)
                names += [NOTHING] * (MOST_NAMED - len(names))
                row["names"][at + 1 : at + 1 + MOST_NAMED] = torch.tensor(names)
            row["answer_ids"][answer_at:answer_end] = torch.tensor([self._start, *said])
            row["answer_positions"][answer_at:answer_end] = torch.arange(len(said) + 1)
            row["answer_of"][answer_at:answer_end] = number
            row["labels"][answer_at:answer_end] = torch.tensor([*said, self._end])
            at, answer_at = end, answer_end
        return row


class Trainee(nn.Module):
    """The answerer with its losses, and the heads that exist for training only."""

    def __init__(self, blip: BlipForQuestionAnswering) -> None:
        super().__init__()
        self.blip = blip
        heed_masks(blip.text_decoder.bert)
        width = blip.config.text_config.hidden_size
        self.fact_head = nn.Linear(width, FACTS)
        self.name_head = nn.Linear(width, NAMES)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255)

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        pixels = (batch["pixels"].permute(0, 3, 1, 2).float() - self.mean) / self.std  # [B, 3, SIZE, SIZE]
        image = self.blip.vision_model(pixel_values=pixels).last_hidden_state  # [B, 1 + patches, width]
        asked, answered = batch["text_ids"], batch["answer_of"]  # [B, QUESTION_PACK], [B, ANSWER_PACK]
        found = self.blip.text_encoder(
            input_ids=batch["input_ids"],
            attention_mask=additive(asked[:, None, :, None] == asked[:, None, None, :]),
            position_ids=batch["position_ids"],
            encoder_hidden_states=image,
            output_hidden_states=True,
        )
        questions = found.last_hidden_state  # [B, QUESTION_PACK, width]
        states = self.blip.text_decoder.bert(
            input_ids=batch["answer_ids"],
            attention_mask=additive((answered[:, None, :, None] == answered[:, None, None, :]).tril()),
            position_ids=batch["answer_positions"],
            encoder_hidden_states=questions,
            encoder_attention_mask=additive(answered[:, None, :, None] == asked[:, None, None, :]),
            is_decoder=True,
            use_cache=False,
        ).last_hidden_state
        wanted = batch["labels"] != IGNORED
        logits = self.blip.text_decoder.cls(states[wanted])  # [answer tokens, vocabulary]
        facts = self.fact_head(found.hidden_states[1]).float().transpose(1, 2)  # [B, FACTS, QUESTION_PACK]
        names = self.name_head(questions).float().transpose(1, 2)  # [B, NAMES, QUESTION_PACK]
        return {
            "answer": F.cross_entropy(logits.float(), batch["labels"][wanted]),
            "facts": F.cross_entropy(facts, batch["facts"], ignore_index=IGNORED),
            "names": F.cross_entropy(names, batch["names"], ignore_index=IGNORED),
        }


def begin(captioner: Path, matcher: Path, tokenizer: BertTokenizer) -> BlipForQuestionAnswering:
    """An answerer with the matcher's eyes and understanding of text, and the captioner's way to write."""
    writing = BlipForConditionalGeneration.from_pretrained(str(captioner), dtype=torch.float32)
    seeing = BlipForImageTextRetrieval.from_pretrained(str(matcher), dtype=torch.float32)
    config: Any = BlipConfig.from_dict(copy.deepcopy(writing.config.to_dict()))
    config.architectures = None
    config.text_config.vocab_size = len(tokenizer)
    blip = BlipForQuestionAnswering(config)
    blip.vision_model.load_state_dict(seeing.vision_model.state_dict())
    blip.text_encoder.load_state_dict(seeing.text_encoder.state_dict())
    layers = writing.text_decoder.state_dict()
    for name in [name for name in layers if layers[name].shape[:1] == (writing.config.text_config.vocab_size,)]:
        table = layers[name] if layers[name].ndim == 2 else layers[name][:, None]
        layers[name] = grown(table, len(tokenizer), 0.02).reshape(-1, *layers[name].shape[1:])
    blip.text_decoder.load_state_dict(layers)
    return blip


def train(out: Path, course: Course, seed: int, captioner: Path, matcher: Path, steps: int, size: int = 48) -> bool:
    """Returns whether the run reached its end; `out` holds the answerer as it then is."""
    torch.manual_seed(seed)
    tokenizer = write_tokenizer(out, for_tasks=True)
    fit = Fit(Trainee(begin(captioner, matcher, tokenizer)), course)

    def examples(first: int, count: int) -> AskedScenes:
        return AskedScenes(tokenizer, first, count)

    ended = fit.run([Phase.of(examples, FIRST_SCENE, steps, size, LOSSES)])
    save(fit.kept.blip, tokenizer, out, fit.log)
    return ended
