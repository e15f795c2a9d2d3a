"""Questions about images with `BlipForQuestionAnswering`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from serve_app.engine import blip
from serve_app.engine.batcher import Batcher
from serve_app.engine.image_states import ImageStates, encoder_of
from serve_app.engine.loading import LoadedModel
from serve_app.engine.pixels import Normalizer
from serve_app.errors import PromptTooLong
from serve_app.task_types import Answer
from serve_app.types import ModelInfo, Pixels

MAX_ANSWER_TOKENS = 20
MAX_JOBS = 64


@dataclass(frozen=True, slots=True)
class _Job:
    image: Pixels
    question: list[int]


class AnswerEngine:
    """Answers questions greedily; questions of all requests run in batches, and an image is encoded once."""

    def __init__(self, loaded: LoadedModel[blip.Answerer], max_image_cache_bytes: int) -> None:
        self._info = loaded.info
        self._model: Any = loaded.model
        self._tokenizer: Any = loaded.tokenizer
        heed_masks(self._model.text_decoder.bert)
        normalize = Normalizer(loaded.mean, loaded.std, loaded.info, resizes=True)
        self._images = ImageStates(encoder_of(loaded.model), normalize, max_image_cache_bytes)
        self._batcher: Batcher[_Job, Answer] = Batcher(self._run, "answer-engine", MAX_JOBS)

    async def info(self) -> ModelInfo:
        return self._info

    async def answers(self, pixels: Pixels, questions: Sequence[str], timeout_s: float | None = None) -> list[Answer]:
        """Raises `PromptTooLong` for a question beyond the model's positions, and what `Batcher.submit` raises."""
        jobs = [_Job(pixels, self._ids(question)) for question in questions]
        return await asyncio.gather(*(self._batcher.submit(job, timeout_s) for job in jobs))

    def _ids(self, question: str) -> list[int]:
        ids: list[int] = self._tokenizer(question, split_special_tokens=True)["input_ids"]  # "[SEP]" is plain text
        if len(ids) > self._info.max_positions:
            raise PromptTooLong(f"The question has {len(ids)} tokens and the model takes {self._info.max_positions}.")
        return ids

    def check_health(self) -> None:
        self._batcher.check_health()

    def close(self) -> None:
        self._batcher.close()

    @torch.inference_mode()
    def _run(self, jobs: Sequence[_Job]) -> list[Answer]:
        device, config = self._model.device, self._model.config.text_config
        states = self._images([job.image for job in jobs], self._batcher.alive)
        self._batcher.alive()
        images = torch.stack([states[job.image.digest] for job in jobs])  # [jobs, 1 + patches, width]
        longest = max(len(job.question) for job in jobs)
        ids = torch.full((len(jobs), longest), config.pad_token_id)
        for place, job in enumerate(jobs):
            ids[place, : len(job.question)] = torch.tensor(job.question)
        known = torch.tensor([[at < len(job.question) for at in range(longest)] for job in jobs]).long().to(device)
        dtype = self._model.dtype
        hidden = torch.zeros(known.shape, dtype=dtype, device=device).masked_fill(known == 0, torch.finfo(dtype).min)
        questions = self._model.text_encoder(
            input_ids=ids.to(device), attention_mask=hidden[:, None, None], encoder_hidden_states=images
        ).last_hidden_state  # [jobs, longest, width]
        found = self._model.text_decoder.generate(
            input_ids=torch.full((len(jobs), 1), blip.start_token(self._model.config), device=device),
            encoder_hidden_states=questions,
            encoder_attention_mask=known,
            eos_token_id=blip.end_token(self._model.config),
            pad_token_id=config.pad_token_id,
            max_new_tokens=MAX_ANSWER_TOKENS,
            num_beams=1,
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        tokens = found.sequences[:, 1:]  # [jobs, answer]
        scores = self._model.text_decoder.compute_transition_scores(
            found.sequences, found.scores, normalize_logits=True
        )  # [jobs, answer]
        probabilities = scores.float().masked_fill(tokens == config.pad_token_id, 0.0).sum(1).exp().tolist()
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [Answer(text.strip(), value) for text, value in zip(texts, probabilities, strict=True)]


def heed_masks(text_model: Any) -> None:
    """Makes the cross-attention of a `BlipTextModel` respect `encoder_attention_mask`.

    transformers 5.23 hands that mask on as `attention_mask`, which its cross-attention replaces by nothing, so that
    padding of the encoder's states is attended to. Calls without a mask are as before.
    """
    for layer in text_model.encoder.layer:
        layer.crossattention.self.register_forward_pre_hook(_moved, with_kwargs=True)


def _moved(_: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if named.get("encoder_attention_mask") is None and len(arguments) < 2:
        named = {**named, "encoder_attention_mask": named.get("attention_mask")}
    return arguments, named
