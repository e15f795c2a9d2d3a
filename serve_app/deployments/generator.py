"""The Generator protocol over a deployment handle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.deadline import Deadline
from serve_app.deployments.model_handle import ModelHandle
from serve_app.errors import GenerationFailed, ServiceError, WrongImageSize
from serve_app.types import GenerateJob, OnOutcome, Outcome, Pixels


class HandleGenerator(ModelHandle):
    """Sends an image's jobs to caption replicas: all in one call, or in `spread` calls that hash apart."""

    kind = "caption"

    def __init__(self, handle: DeploymentHandle[Any], *, spread: int = 1, max_retries: int = 2) -> None:
        super().__init__(handle, max_retries=max_retries)
        self._spread = spread

    def reconfigure(self, *, max_retries: int, spread: int | None = None) -> None:
        super().reconfigure(max_retries=max_retries)
        self._spread = self._spread if spread is None else spread

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Raises `ServiceError` when every call failed; otherwise failed calls leave errors as outcomes."""
        deadline = Deadline.after(timeout_s)
        spread = self._spread
        groups = [list(jobs[start::spread]) for start in range(min(spread, len(jobs)))]

        untold = set(range(len(jobs)))

        def told(number: int) -> OnOutcome | None:
            if on_outcome is None:
                return None

            def tell(place: int, outcome: Outcome) -> None:
                untold.discard(number + place * spread)
                on_outcome(number + place * spread, outcome)

            return tell

        calls = (self._group(pixels, group, number, deadline, told(number)) for number, group in enumerate(groups))
        answers = await asyncio.gather(*calls)
        failures = [answer for answer in answers if isinstance(answer, ServiceError)]
        if failures and len(failures) == len(answers):
            raise failures[0]
        outcomes: list[Outcome] = [GenerationFailed("The replica returned too few texts.")] * len(jobs)
        for start, (group, answer) in enumerate(zip(groups, answers, strict=True)):
            outcomes[start::spread] = [answer] * len(group) if isinstance(answer, ServiceError) else answer
        if any(isinstance(outcome, WrongImageSize) for outcome in outcomes):
            self._info = None  # another model was deployed below this ingress
        for index in sorted(untold):
            if on_outcome is not None:
                on_outcome(index, outcomes[index])
        return outcomes

    async def _group(
        self,
        pixels: Pixels,
        jobs: list[GenerateJob],
        number: int,
        deadline: Deadline,
        on_outcome: OnOutcome | None,
    ) -> list[Outcome] | ServiceError:
        session = self._session(pixels, number)
        try:
            if on_outcome is not None:
                return await self._streamed(session, pixels, jobs, deadline, on_outcome)
            outcomes: list[Outcome] = await self._call(session, "generate", pixels, jobs, deadline=deadline)
        except ServiceError as error:
            return error
        return outcomes

    async def _streamed(
        self, session: str, pixels: Pixels, jobs: list[GenerateJob], deadline: Deadline, on_outcome: OnOutcome
    ) -> list[Outcome]:
        """The outcomes, each reported as it comes; if the replica is lost, the jobs that are missing are sent again."""
        found: dict[int, Outcome] = {}
        lost: Outcome = GenerationFailed("The replica returned too few texts.")

        async def follow() -> None:
            missing = [place for place in range(len(jobs)) if place not in found]
            await self._follow(session, pixels, jobs, missing, deadline, found, on_outcome)

        try:
            await self._retried(follow, session)
        except ServiceError as error:
            if not found:
                raise
            lost = error
        return [found.get(place, lost) for place in range(len(jobs))]

    async def _follow(
        self,
        session: str,
        pixels: Pixels,
        jobs: list[GenerateJob],
        places: list[int],
        deadline: Deadline,
        found: dict[int, Outcome],
        on_outcome: OnOutcome,
    ) -> None:
        """One streaming call for the jobs at `places`; puts what comes into `found`."""
        outcomes = (
            self._to(session).options(stream=True).stream.remote(pixels, [jobs[place] for place in places], deadline)
        )
        try:
            async with self._patience(deadline):
                async for index, outcome in outcomes:
                    found[places[index]] = outcome
                    on_outcome(places[index], outcome)
        except BaseException:
            outcomes.cancel()  # Ray lets the call run on when its reader is cancelled
            raise
