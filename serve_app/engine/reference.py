"""The reference engine: transformers' own `generate`, one job after the other."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from serve_app.engine.loading import Loaded
from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed, PromptTooLong, WrongImageSize
from serve_app.types import Generated, GenerateJob, GenerationParameters, ModelInfo, Outcome, Pixels

logger = logging.getLogger(__name__)


class ReferenceGenerator:
    """Generator over `BlipForConditionalGeneration.generate`.

    One thread does all the work, so the caller's event loop stays free and the global random
    generator, from which transformers samples, has one user.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")

    async def info(self) -> ModelInfo:
        return self._loaded.info

    async def generate(
        self, pixels: Pixels, jobs: Sequence[GenerateJob], timeout_s: float | None = None
    ) -> list[Outcome]:
        """Runs the jobs in turn. Cancelling the call ends the running job at its next token."""
        interrupt = _Interrupt(None if timeout_s is None else time.monotonic() + timeout_s)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, pixels, jobs, interrupt)
        except asyncio.CancelledError:
            interrupt.cancel()
            raise

    def close(self) -> None:
        """Waits for the running job and ends the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _run(self, pixels: Pixels, jobs: Sequence[GenerateJob], interrupt: _Interrupt) -> list[Outcome]:
        return [self._outcome(pixels, job, interrupt) for job in jobs]

    def _outcome(self, pixels: Pixels, job: GenerateJob, interrupt: _Interrupt) -> Outcome:
        try:
            interrupt.check()
            return self._generate(pixels, job, interrupt)
        except CaptionServeError as error:
            return error
        except torch.OutOfMemoryError:
            return GenerationFailed("The model ran out of GPU memory.")
        except Exception:
            logger.exception("generate failed for the prompt %r", job.prompt)
            return GenerationFailed("The model failed while it generated; the service's log has the details.")

    @torch.inference_mode()
    def _generate(self, pixels: Pixels, job: GenerateJob, interrupt: _Interrupt) -> Generated:
        model, tokenizer, info = self._loaded.model, self._loaded.tokenizer, self._loaded.info
        if (pixels.height, pixels.width) != (info.image_height, info.image_width):
            raise WrongImageSize(
                f"The model takes images of {info.image_height}×{info.image_width} pixels, "
                f"not {pixels.height}×{pixels.width}."
            )
        ids = tokenizer(job.prompt)["input_ids"]  # [CLS] … [SEP]; generate replaces the first and drops the last
        room = fit(job.parameters, len(ids) - 1, self._limit(job.parameters))
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(job.seed)
            sequence = model.generate(
                pixel_values=self._pixel_values(pixels),
                input_ids=torch.tensor([ids], device=model.device),  # type: ignore[arg-type]
                stopping_criteria=StoppingCriteriaList([interrupt]),
                **{**_given(job.parameters), **room},
            )[0]
        interrupt.check()
        return Generated(
            text=str(tokenizer.decode(sequence, skip_special_tokens=True)),
            prompt=str(tokenizer.decode(ids, skip_special_tokens=True)),
            tokens=max(0, len(sequence) - (len(ids) - 1)),
        )

    def _limit(self, parameters: GenerationParameters) -> int:
        """Positions that the prompt and the answer may fill together; `max_new_tokens` overrules `max_length`."""
        positions = self._loaded.info.max_positions
        if parameters.max_new_tokens is not None:
            return positions
        return min(parameters.max_length or self._loaded.model.generation_config.max_length or 20, positions)

    def _pixel_values(self, pixels: Pixels) -> torch.Tensor:
        device, dtype = self._loaded.model.device, self._loaded.model.dtype
        flat = torch.frombuffer(bytearray(pixels.data), dtype=torch.uint8).to(device)
        image = flat.view(pixels.height, pixels.width, 3).permute(2, 0, 1).float() / 255  # [3, H, W]
        mean = torch.tensor(self._loaded.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self._loaded.std, device=device).view(3, 1, 1)
        return ((image - mean) / std).to(dtype)[None]  # [1, 3, H, W]


def fit(parameters: GenerationParameters, prompt_tokens: int, limit: int) -> dict[str, int]:
    """The length arguments that keep prompt and answer within `limit` positions.

    Raises `PromptTooLong` when the prompt leaves no room for a token.
    """
    if prompt_tokens >= limit:
        raise PromptTooLong(f"The prompt has {prompt_tokens} tokens and at most {limit - 1} leave room for an answer.")
    if parameters.max_new_tokens is not None:
        return {"max_new_tokens": min(parameters.max_new_tokens, limit - prompt_tokens)}
    return {"max_length": limit}


def _given(parameters: GenerationParameters) -> dict[str, Any]:
    values = {entry.name: getattr(parameters, entry.name) for entry in fields(parameters)}
    return {name: value for name, value in values.items() if value is not None}


class _Interrupt(StoppingCriteria):
    """Ends a running generate at its next token when the caller left or its time is up."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        if self._cancelled.is_set():
            raise GenerationFailed("The request was cancelled.")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineExceeded("Its time ran out.")

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.BoolTensor:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        stop = late or self._cancelled.is_set()
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)  # type: ignore[return-value]
