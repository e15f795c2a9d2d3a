"""Engines over transformers' own `generate`: one call after the other in one thread."""

from __future__ import annotations

import abc
import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteria

from serve_app.deadline import Deadline
from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed, GeneratorUnavailable
from serve_app.types import Generated, GenerateJob, GenerationParameters, ModelInfo, OnOutcome, Outcome, Pixels

logger = logging.getLogger(__name__)

LOST = "The device failed; the replica has to be started anew."


class SequentialGenerator(abc.ABC):
    """A Generator whose jobs run in turn.

    One thread does all the work, so the caller's event loop stays free and the global random
    generator, from which transformers samples, has one user.
    """

    def __init__(self, info: ModelInfo) -> None:
        self._info = replace(info, sequential=True)
        self._lost = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generate")

    async def info(self) -> ModelInfo:
        return self._info

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Runs the jobs in turn, those with equal parameters together where the model can. Cancelling the call ends the
        running jobs at their next token."""
        interrupt = Interrupt(Deadline.after(timeout_s))
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
        """Raises `GeneratorUnavailable` when the device is lost. A job that hangs is ended by its deadline."""
        if self._lost:
            raise GeneratorUnavailable(LOST)

    def close(self) -> None:
        """Waits for the running job and ends the thread."""
        self._thread.shutdown(cancel_futures=True)

    @abc.abstractmethod
    def generated(self, pixels: Pixels, job: GenerateJob, interrupt: Interrupt) -> Generated:
        """Runs one job in the engine's thread. May raise anything."""

    def together(
        self,
        pixels: Pixels,  # noqa: ARG002
        jobs: Sequence[GenerateJob],  # noqa: ARG002
        interrupt: Interrupt,  # noqa: ARG002
    ) -> list[Generated] | None:
        """Runs jobs with equal parameters in one call; None if the model cannot. May raise anything."""
        return None

    def _run(self, pixels: Pixels, jobs: Sequence[GenerateJob], interrupt: Interrupt, tell: OnOutcome) -> list[Outcome]:
        found: dict[int, Outcome] = {}
        groups: dict[GenerationParameters, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.parameters, []).append(index)
        for places in groups.values():
            mine = [jobs[place] for place in places]
            outcomes = self._outcomes(pixels, mine, interrupt)
            for place, outcome in zip(places, outcomes, strict=True):
                found[place] = outcome
                tell(place, outcome)
        return [found[place] for place in range(len(jobs))]

    def _outcomes(self, pixels: Pixels, jobs: Sequence[GenerateJob], interrupt: Interrupt) -> Iterator[Outcome]:
        """Of all jobs together; one after the other if that fails, for want of memory or for one of the prompts."""
        together = None
        if len(jobs) > 1:
            try:
                interrupt.check()
                with torch.inference_mode():
                    together = self.together(pixels, jobs, interrupt)
            except torch.AcceleratorError:
                pass  # the first of them alone meets it again, and tells of it
            except Exception:
                logger.debug("the prompts of an image could not be run together", exc_info=True)
        yield from together if together is not None else (self._outcome(pixels, job, interrupt) for job in jobs)

    def _outcome(self, pixels: Pixels, job: GenerateJob, interrupt: Interrupt) -> Outcome:
        try:
            interrupt.check()
            with torch.inference_mode():
                found = self.generated(pixels, job, interrupt)
            interrupt.check()
            return found
        except CaptionServeError as error:
            return error
        except torch.OutOfMemoryError:
            return GenerationFailed("The model ran out of GPU memory.")
        except Exception as error:
            if isinstance(error, torch.AcceleratorError):  # nothing runs on the device from here on
                self._lost = True
                return GeneratorUnavailable(LOST)
            logger.exception("generate failed for the prompt %r", job.prompt)
            return GenerationFailed("The model failed while it generated; the service's log has the details.")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """The block draws the random numbers of a seed; those of others go on as if it had not been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Interrupt(StoppingCriteria):
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
