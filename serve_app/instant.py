"""A Generator without a model: shows what the service around an engine costs, and how it takes the loss of replicas."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from serve_app.errors import DeadlineExceeded
from serve_app.types import Generated, GenerateJob, ModelInfo, OnOutcome, Outcome, Pixels

IMAGE_SIZE = 384
"""Pixels, as BLIP-large takes them: images weigh on the way to the replica what real ones do."""


INFO = ModelInfo("instant", IMAGE_SIZE, IMAGE_SIZE, 512, "none", "none")


class InstantGenerator:
    """Answers every job with a sentence that names the image and the process, after `delay_s` seconds."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s

    async def info(self) -> ModelInfo:
        return INFO

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        late = timeout_s is not None and timeout_s < self._delay_s
        if self._delay_s:
            await asyncio.sleep(timeout_s if late and timeout_s is not None else self._delay_s)
        if late:
            outcomes: list[Outcome] = [DeadlineExceeded()] * len(jobs)
        else:
            outcomes = [_generated(pixels, job) for job in jobs]
        for index, outcome in enumerate(outcomes):
            if on_outcome is not None:
                on_outcome(index, outcome)
        return outcomes

    def check_health(self) -> None:
        """There is nothing that could break."""

    def close(self) -> None:
        """There is nothing to end."""


def _generated(pixels: Pixels, job: GenerateJob) -> Generated:
    text = f"nobody looked at picture {pixels.digest} when it went by in process {os.getpid()} on its way"
    return Generated(f"{job.prompt} {text}".strip(), job.prompt)
