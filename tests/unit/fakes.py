"""Generators that answer by a rule, for tests of what surrounds a model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from serve_app.limits import Limits
from serve_app.types import CaptionOptions, Generated, GenerateJob, ModelInfo, OnOutcome, Outcome, Pixels

INFO = ModelInfo("fake", 8, 8, 512, "float32", "cpu")
CLASSIC = Limits(default_strategy="classic")
"""The strategy whose steps a rule foresees best."""
PIXELS = Pixels("d1", 8, 8, bytes(8 * 8 * 3))


def options(**changes: object) -> CaptionOptions:
    values: dict[str, object] = {"strategy": "classic", "rounds": 3, "prompts": (), "seed": 0, "timeout_s": 60.0}
    return CaptionOptions(**{**values, **changes})  # type: ignore[arg-type]


class RuleGenerator:
    """Answers every job by `rule(prompt)`, a text or an error, and keeps what it was asked."""

    def __init__(self, rule: Callable[[str], str | Exception], delay_s: float = 0.0) -> None:
        self.calls: list[list[GenerateJob]] = []
        self.cancelled = 0
        self._rule = rule
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
        self.calls.append(list(jobs))
        try:
            await asyncio.sleep(self._delay_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        answers = [(self._rule(job.prompt), job.prompt) for job in jobs]
        outcomes: list[Outcome] = [
            Generated(text, prompt) if isinstance(text, str) else text  # type: ignore[misc]
            for text, prompt in answers
        ]
        for index, outcome in enumerate(outcomes):
            if on_outcome is not None:
                on_outcome(index, outcome)
        return outcomes
