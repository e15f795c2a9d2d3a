"""The Generator protocol over a deployment handle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.deployments.calls import ReplicaCalls
from serve_app.deployments.handle_errors import our_errors
from serve_app.errors import GenerationFailed, GeneratorUnavailable, ServiceError, WrongImageSize
from serve_app.types import GenerateJob, ModelInfo, OnOutcome, Outcome, Pixels

logger = logging.getLogger("ray.serve")


class HandleGenerator:
    """Sends an image's jobs to caption replicas: all in one call, or in `spread` calls that hash apart.

    The image's digest is the session id, so that all its calls meet on one replica while that has room.
    A call whose replica is lost is sent again, at most `max_retries` times.
    """

    def __init__(self, handle: DeploymentHandle[Any], *, spread: int = 1, max_retries: int = 2) -> None:
        # By value over gRPC: an image is under half a megabyte, and an object reference costs more than that.
        self._handle: Any = handle.options(_by_reference=False)
        self._spread = spread
        self._calls = ReplicaCalls("caption", max_retries)
        self._info: ModelInfo | None = None

    async def info(self) -> ModelInfo:
        if self._info is None:
            # Without a limit of its own: the caller's holds, and a replica may take minutes to load its model.
            self._info = await self._calls(self._handle, "info", deadline=None)
        return self._info

    def reconfigure(self, spread: int, max_retries: int) -> None:
        """Later calls go by these."""
        self._spread = spread
        self._calls.max_retries = max_retries

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Raises `ServiceError` when every call failed; otherwise failed calls leave errors as outcomes."""
        deadline = None if timeout_s is None else time.time() + timeout_s
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
        deadline: float | None,
        on_outcome: OnOutcome | None,
    ) -> list[Outcome] | ServiceError:
        session = pixels.digest if number == 0 else f"{pixels.digest}:{number}"
        handle = self._handle.options(session_id=session)
        try:
            if on_outcome is not None:
                return await self._streamed(handle.options(stream=True), pixels, jobs, deadline, on_outcome)
            outcomes: list[Outcome] = await self._calls(handle, "generate", pixels, jobs, deadline, deadline=deadline)
        except ServiceError as error:
            return error
        return outcomes

    async def _streamed(
        self, handle: Any, pixels: Pixels, jobs: list[GenerateJob], deadline: float | None, on_outcome: OnOutcome
    ) -> list[Outcome]:
        """The outcomes, each told as it comes; when the replica is lost, the jobs that are missing are sent again."""
        found: dict[int, Outcome] = {}
        lost: Outcome = GenerationFailed("The replica returned too few texts.")
        for attempt in range(self._calls.max_retries + 1):
            missing = [place for place in range(len(jobs)) if place not in found]
            try:
                await self._follow(handle, pixels, jobs, missing, deadline, found, on_outcome)
                break
            except ServiceError as error:
                again = isinstance(error, GeneratorUnavailable) and attempt < self._calls.max_retries
                if not again and not found:
                    raise
                lost = error
                if not again:
                    break
                logger.warning("A caption replica was lost; what it has not answered is sent again.")
        return [found.get(place, lost) for place in range(len(jobs))]

    async def _follow(
        self,
        handle: Any,
        pixels: Pixels,
        jobs: list[GenerateJob],
        places: list[int],
        deadline: float | None,
        found: dict[int, Outcome],
        on_outcome: OnOutcome,
    ) -> None:
        """One streaming call for the jobs at `places`; puts what comes into `found`."""
        outcomes = handle.stream.remote(pixels, [jobs[place] for place in places], deadline)
        try:
            async with self._calls.patience(deadline):
                with our_errors("caption"):
                    async for index, outcome in outcomes:
                        found[places[index]] = outcome
                        on_outcome(places[index], outcome)
        except BaseException:
            outcomes.cancel()  # Ray lets the call run on when its reader is cancelled
            raise
