"""The reference engine: transformers' own `generate`, one job after the other."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from serve_app.deadline import Deadline
from serve_app.engine import blip
from serve_app.engine.loading import Loaded
from serve_app.engine.parameters import fit, given, limit
from serve_app.engine.pixels import Normalizer
from serve_app.engine.prompts import PromptCodec
from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed, ModelUnsupported
from serve_app.types import Generated, GenerateJob, ModelInfo, OnOutcome, Outcome, Pixels

logger = logging.getLogger(__name__)


class ReferenceGenerator:
    """Generator over `BlipForConditionalGeneration.generate`.

    One thread does all the work, so the caller's event loop stays free and the global random
    generator, from which transformers samples, has one user.
    """

    def __init__(self, loaded: Loaded) -> None:
        """Raises `ModelUnsupported` for int8 and fp8."""
        if (name := loaded.precision.name) in ("int8", "fp8"):
            raise ModelUnsupported(f"The reference engine has no {name}; use float32 or bfloat16.")
        self._loaded = loaded
        self._end = blip.end_token(loaded.model.config)
        self._codec = PromptCodec.of(loaded)
        self._normalize = Normalizer(loaded.mean, loaded.std, loaded.info)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")

    async def info(self) -> ModelInfo:
        return self._loaded.info

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Runs the jobs in turn. Cancelling the call ends the running job at its next token."""
        interrupt = _Interrupt(Deadline.after(timeout_s))
        loop = asyncio.get_running_loop()

        def tell(index: int, outcome: Outcome) -> None:
            if on_outcome is not None:
                loop.call_soon_threadsafe(on_outcome, index, outcome)

        try:
            return await loop.run_in_executor(self._thread, self._run, pixels, jobs, interrupt, tell)
        except asyncio.CancelledError:
            interrupt.cancel()
            raise

    def check_health(self) -> None:
        """A job that hangs is ended by its deadline; there is nothing else that could die."""

    def close(self) -> None:
        """Waits for the running job and ends the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _run(
        self, pixels: Pixels, jobs: Sequence[GenerateJob], interrupt: _Interrupt, tell: OnOutcome
    ) -> list[Outcome]:
        outcomes = []
        for index, job in enumerate(jobs):
            outcomes.append(self._outcome(pixels, job, interrupt))
            tell(index, outcomes[-1])
        return outcomes

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
        model, codec = self._loaded.model, self._codec
        pixel_values = self._normalize(pixels).to(model.dtype)
        prompt = codec.encode(job.prompt)
        longest = limit(job.parameters, model.generation_config.max_length, self._loaded.info.max_positions)
        lengths = fit(job.parameters, len(prompt), longest)
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(job.seed)
            found: Any = model.generate(
                pixel_values=pixel_values,
                input_ids=torch.tensor([blip.generate_ids(prompt)], device=model.device),  # type: ignore[arg-type]
                stopping_criteria=StoppingCriteriaList([interrupt]),
                return_dict_in_generate=True,
                output_scores=True,
                **{**given(job.parameters), **lengths},
            )
        interrupt.check()
        scores: Any = getattr(found, "sequences_scores", None)
        results = [
            codec.generated(prompt, self._trim(ids, len(prompt)), None if scores is None else float(scores[place]))
            for place, ids in enumerate(found.sequences.tolist())
        ]
        return replace(results[0], alternatives=tuple(results[1:]))

    def _trim(self, ids: list[int], prompt_tokens: int) -> list[int]:
        """Drops what fills a sequence up to the longest one's length."""
        return ids[: ids.index(self._end, prompt_tokens) + 1] if self._end in ids[prompt_tokens:] else ids


class _Interrupt(StoppingCriteria):
    """Ends a running generate at its next token when the caller left or its time is up."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        if self._cancelled.is_set():
            raise GenerationFailed("The request was cancelled.")
        if self._deadline.passed:
            raise DeadlineExceeded()

    def __call__(self, input_ids: torch.LongTensor, *_: Any, **__: Any) -> torch.BoolTensor:
        stop = self._deadline.passed or self._cancelled.is_set()
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device, dtype=torch.bool)  # type: ignore[return-value]
