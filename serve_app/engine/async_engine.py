"""The decode engine behind the Generator protocol."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from serve_app.deadline import Deadline
from serve_app.engine.counters import Counters
from serve_app.engine.engine import Engine
from serve_app.engine.loading import Loaded
from serve_app.engine.parameters import limit, resolve, unsupported
from serve_app.engine.prompts import PromptCodec
from serve_app.engine.scheduler import Group, Hypothesis
from serve_app.engine.worker import Worker
from serve_app.errors import CaptionServeError, GeneratorUnavailable
from serve_app.types import EngineLimits, Generated, GenerateJob, ModelInfo, OnOutcome, Outcome, Pixels

logger = logging.getLogger(__name__)


GRACE_S = 5.0
"""A caller waits so long beyond its deadline for the engine to say so, which may hang."""


class AsyncEngine:
    """Generator over `Engine`. Jobs of all calls run together; each result returns as soon as it is there."""

    def __init__(self, loaded: Loaded, limits: EngineLimits | None = None) -> None:
        """Takes the model over. Raises `ModelError`s."""
        self._info = loaded.info
        self._engine = Engine(loaded, limits or EngineLimits())
        self._codec = PromptCodec.of(loaded)
        self._defaults = loaded.model.text_decoder.generation_config
        if ignored := unsupported(loaded.model.generation_config):
            logger.warning("The checkpoint %s asks for %s, which the engine has not.", loaded.info.name, ignored)
        self._max_length: int | None = loaded.model.generation_config.max_length
        self._worker: Worker[Group] = Worker(self._engine, "decode-engine")

    @property
    def counters(self) -> Counters:
        return self._engine.counters

    async def info(self) -> ModelInfo:
        return self._info

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Runs the jobs together. Cancelling the call drops them at the engine's next step.

        Raises `GeneratorUnavailable` when the engine is closed or its thread died.
        """
        self._worker.check_alive()
        deadline = Deadline.after(timeout_s)

        async def run(index: int, job: GenerateJob) -> Outcome:
            outcome = await self._generate(pixels, job, deadline)
            if on_outcome is not None:
                on_outcome(index, outcome)
            return outcome

        tasks = [asyncio.ensure_future(run(index, job)) for index, job in enumerate(jobs)]
        try:
            outcomes = list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # of a call that failed, or that nobody waits for any more
                task.cancel()
        lost = [outcome for outcome in outcomes if isinstance(outcome, GeneratorUnavailable)]
        if lost and len(lost) == len(outcomes):
            raise lost[0]
        return outcomes

    def check_health(self) -> None:
        """Raises `GeneratorUnavailable` when the thread died or hangs in a step."""
        self._worker.check_health()

    def close(self) -> None:
        """Ends what runs and waits with `GeneratorUnavailable`, and the thread after its current step."""
        self._worker.close()

    def check_integrity(self) -> None:
        """Asserts that nothing leaked. For an engine at rest."""
        self._engine.check_integrity()

    async def _generate(self, pixels: Pixels, job: GenerateJob, deadline: Deadline) -> Outcome:
        try:
            prompt = self._codec.encode(job.prompt)
            longest = limit(job.parameters, self._max_length, self._info.max_positions)
            parameters = resolve(job.parameters, self._defaults, longest, len(prompt))
            result: list[Hypothesis] = await self._worker.result(
                lambda finish, abandoned: Group(pixels, prompt, parameters, job.seed, finish, abandoned, deadline),
                deadline.later(GRACE_S),
            )
        except CaptionServeError as error:
            return error
        first, *others = [self._codec.generated(prompt, found.ids, found.score) for found in result]
        return first if not others else _with_alternatives(first, others)


def _with_alternatives(first: Generated, others: list[Generated]) -> Generated:
    return Generated(first.text, first.prompt, first.log_probability, first.tokens, tuple(others))
