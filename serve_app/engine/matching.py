"""Image–text matching and embeddings with `BlipForImageTextRetrieval`.

The texts of a call are packed one after the other into rows in which each sees only itself, so that they share the
image's keys and values and no time goes into padding; scores are those of one text at a time, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from serve_app.engine import blip
from serve_app.engine.batcher import Batcher
from serve_app.engine.image_states import ImageStates, encoder_of
from serve_app.engine.loading import LoadedModel
from serve_app.engine.pixels import Normalizer
from serve_app.errors import GenerationFailed, PromptTooLong
from serve_app.types import Match, ModelInfo, Pixels

ROW_TOKENS = 512
"""Most tokens of a packed row of several texts."""
BATCH_TOKENS = 8192
"""Most tokens of rows that run at once, padding among them."""
MAX_JOBS = 32


@dataclass(frozen=True, slots=True)
class _Job:
    """Texts to match with an image, or, without one of both, what to embed."""

    image: Pixels | None
    texts: tuple[list[int], ...]
    match: bool
    embed: bool


@dataclass(frozen=True, slots=True)
class _Result:
    probabilities: list[float]
    image: torch.Tensor | None
    """[dimension], of length 1."""
    texts: torch.Tensor | None
    """[texts, dimension], each of length 1."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """Texts packed into one row; `job` and `first` say whose they are."""

    job: int
    first: int
    texts: list[list[int]]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.texts))


class MatchEngine:
    """The Matcher protocol and embeddings over one model; calls of all requests run in batches."""

    def __init__(self, loaded: LoadedModel[blip.Retriever], max_image_cache_bytes: int) -> None:
        self._info = loaded.info
        self._model: Any = loaded.model
        self._tokenizer: Any = loaded.tokenizer
        normalize = Normalizer(loaded.mean, loaded.std, loaded.info, resizes=True)
        self._images = ImageStates(encoder_of(loaded.model), normalize, max_image_cache_bytes)
        self._batcher: Batcher[_Job, _Result] = Batcher(self._run, "match-engine", MAX_JOBS)

    async def info(self) -> ModelInfo:
        return self._info

    @property
    def dimension(self) -> int:
        """Numbers of an embedding."""
        return int(self._model.config.image_text_hidden_size)

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        """Raises `PromptTooLong` for a text beyond the model's positions, and what `Batcher.submit` raises."""
        job = _Job(pixels, self._encoded(texts), match=True, embed=similarity)
        result = await self._batcher.submit(job, timeout_s)
        if result.image is None or result.texts is None:
            return [Match(probability) for probability in result.probabilities]
        cosines = (result.texts @ result.image).tolist()
        return [Match(*pair) for pair in zip(result.probabilities, cosines, strict=True)]

    async def embed_image(self, pixels: Pixels, timeout_s: float | None = None) -> list[float]:
        """The image's vector of length 1, to be compared by cosine."""
        result = await self._batcher.submit(_Job(pixels, (), match=False, embed=True), timeout_s)
        assert result.image is not None
        return list(result.image.tolist())

    async def embed_texts(self, texts: Sequence[str], timeout_s: float | None = None) -> list[list[float]]:
        """Each text's vector of length 1; of a text beyond the model's positions that of its beginning."""
        result = await self._batcher.submit(
            _Job(None, self._encoded(texts, truncation=True), match=False, embed=True), timeout_s
        )
        assert result.texts is not None
        return list(result.texts.tolist())

    def check_health(self) -> None:
        self._batcher.check_health()

    def close(self) -> None:
        self._batcher.close()

    def _encoded(self, texts: Sequence[str], *, truncation: bool = False) -> tuple[list[int], ...]:
        """Raises `PromptTooLong`, without `truncation`."""
        most = {"truncation": True, "max_length": self._info.max_positions} if truncation else {}
        # "[SEP]" in a text is plain text.
        encoded = self._tokenizer(list(texts), split_special_tokens=True, **most)["input_ids"] if texts else []
        for text, ids in zip(texts, encoded, strict=True):
            if len(ids) > self._info.max_positions:
                raise PromptTooLong(
                    f"A text has {len(ids)} tokens and the model takes {self._info.max_positions}: {text[:60]!r}…"
                )
        return tuple(encoded)

    @torch.inference_mode()
    def _run(self, jobs: Sequence[_Job]) -> list[_Result]:
        images = self._images([job.image for job in jobs if job.image is not None], self._batcher.alive)
        matched = self._by_job(jobs, [job.match for job in jobs], images)
        embedded = self._by_job(jobs, [job.embed for job in jobs], None)
        return [
            _Result(
                [] if not job.match else _probabilities(self._model.itm_head(matched[place])),
                self._image_vector(images[job.image.digest]) if job.image is not None and job.embed else None,
                self._text_vectors(embedded[place]) if job.texts and job.embed else None,
            )
            for place, job in enumerate(jobs)
        ]

    def _image_vector(self, states: torch.Tensor) -> torch.Tensor:
        return F.normalize(self._model.vision_proj(states[0]).float(), dim=-1).cpu()

    def _text_vectors(self, states: torch.Tensor) -> torch.Tensor:
        return F.normalize(self._model.text_proj(states).float(), dim=-1).cpu()

    def _by_job(
        self, jobs: Sequence[_Job], wanted: Sequence[bool], images: dict[str, torch.Tensor] | None
    ) -> list[torch.Tensor]:
        """For each job the states of its texts' first tokens, [texts, width], seen with `images` or without any."""
        rows = [row for place, job in enumerate(jobs) if wanted[place] for row in _rows(place, job.texts)]
        found: dict[tuple[int, int], torch.Tensor] = {}
        for batch in _batches(rows):
            self._batcher.alive()
            pictures = [jobs[row.job].image for row in batch]
            seen = None if images is None else torch.stack([images[picture.digest] for picture in pictures if picture])
            for row, states in zip(batch, self._first_tokens(batch, seen), strict=True):
                found[row.job, row.first] = states
        width = self._model.config.text_config.hidden_size
        empty = torch.zeros(0, width, dtype=self._model.dtype, device=self._model.device)
        return [
            torch.cat([found[key] for key in sorted(found) if key[0] == place])
            if any(key[0] == place for key in found)
            else empty
            for place in range(len(jobs))
        ]

    def _first_tokens(self, rows: Sequence[_Pair], images: torch.Tensor | None) -> list[torch.Tensor]:
        """One pass over packed rows; `images` is [rows, 1 + patches, width]."""
        device, longest = self._model.device, max(row.tokens for row in rows)
        ids, positions, owners = (torch.zeros(len(rows), longest, dtype=torch.long) for _ in range(3))
        starts: list[list[int]] = []
        for place, row in enumerate(rows):
            at = 0
            starts.append([])
            for number, text in enumerate(row.texts, start=1):
                end = at + len(text)
                ids[place, at:end] = torch.tensor(text)
                positions[place, at:end] = torch.arange(len(text))
                owners[place, at:end] = number
                starts[-1].append(at)
                at = end
        owners = owners.to(device)
        visible = owners[:, None, :, None] == owners[:, None, None, :]  # [rows, 1, longest, longest]
        dtype = self._model.dtype
        # BLIP's text layers add their mask to the scores.
        mask = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill(~visible, torch.finfo(dtype).min)
        states = self._model.text_encoder(
            input_ids=ids.to(device),
            attention_mask=mask,
            position_ids=positions.to(device),
            encoder_hidden_states=images,
        ).last_hidden_state  # [rows, longest, width]
        return [states[place, row_starts] for place, row_starts in enumerate(starts)]


def _probabilities(logits: torch.Tensor) -> list[float]:
    """[texts, 2] (no match, match) → the probability of a match. Raises `GenerationFailed`."""
    found = torch.softmax(logits.float(), dim=-1)[:, 1]
    if not bool(found.isfinite().all()):
        raise GenerationFailed("The matcher's numbers overflowed; bfloat16 or float32 holds them.")
    return list(found.tolist())


def _rows(job: int, texts: Sequence[list[int]]) -> list[_Pair]:
    rows: list[_Pair] = []
    for place, text in enumerate(texts):
        if not rows or rows[-1].tokens + len(text) > ROW_TOKENS:
            rows.append(_Pair(job, place, []))
        rows[-1].texts.append(text)
    return rows


def _batches(rows: Sequence[_Pair]) -> list[list[_Pair]]:
    """Rows of like length together, each batch within `BATCH_TOKENS`."""
    batches: list[list[_Pair]] = []
    for row in sorted(rows, key=lambda row: row.tokens):
        if not batches or (len(batches[-1]) + 1) * row.tokens > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(row)
    return batches
