"""The captioners of a service: who takes part in a request, and how long the others wait for one of them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from serve_app.deadline import NEVER, Deadline
from serve_app.errors import DeadlineExceeded, GenerationFailed, InvalidOption, ModelError, ServiceError, TryLater
from serve_app.types import Generator, ModelInfo, Picture, Pixels

logger = logging.getLogger(__name__)

SHARE = 0.5
"""Of the time that a request has left: as long as the others wait for a captioner at the most."""
MOST_LOSSES = 2
"""Requests one after the other that a captioner failed, from which on it is left alone for a while."""
PAUSE_S = 15.0

LATE = "It took much longer than the others."

Result = TypeVar("Result")


class Member:
    """One captioner: how it is called and asked, and whether it answered the last requests.

    `prompts` are what its variants ask instead of its model's own. A job counts one row if `beams` says that it has
    none, as at a server that is asked by URL.
    """

    def __init__(self, name: str, generator: Generator, prompts: tuple[str, ...] = (), *, beams: bool = True) -> None:
        self.name = name
        self.generator = generator
        self.beams = beams
        self.known: ModelInfo | None = None
        """What it said of its model last."""
        self._prompts = prompts
        self._losses = 0
        self._away_until = 0.0

    async def info(self) -> ModelInfo:
        info = await self.generator.info()
        self.known = replace(info, prompts=self._prompts) if self._prompts else info
        return self.known

    @property
    def is_away(self) -> bool:
        """Whether it failed several requests just now."""
        return time.monotonic() < self._away_until

    def note(self, error: ServiceError | None, counts: bool = True) -> None:
        """What a request met; an error that does not count is not the captioner's fault."""
        if error is None:
            self._losses = 0
        elif counts:
            self._losses += 1
        if self._losses >= MOST_LOSSES:
            self._losses, self._away_until = 0, time.monotonic() + PAUSE_S
            logger.warning("The captioner %s failed %d requests; none for %.0f s.", self.name, MOST_LOSSES, PAUSE_S)


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """A captioner in one request."""

    member: Member
    info: ModelInfo
    pixels: Pixels
    alone: bool
    """Whether the service has no other one."""

    @property
    def name(self) -> str | None:
        """What sources call it; None if there is only one."""
        return None if self.alone else self.member.name

    @property
    def title(self) -> str:
        """Its name, or its model's if there is only one."""
        return self.info.name if self.alone else self.member.name


@dataclass(frozen=True, slots=True)
class Ask:
    """Who is asked what."""

    voice: Voice
    prompt: str


class Committee:
    """All captioners of a service, in the order of the settings."""

    def __init__(self, members: Sequence[Member], patience_s: float = math.inf) -> None:
        """Once one has answered, the others have `patience_s` more."""
        self.members = tuple(members)
        self.patience_s = patience_s

    def chosen(self, use: Sequence[str], several: bool) -> tuple[Member, ...]:
        """Those that a request names, by default all, or only the first of them. Raises `InvalidOption`."""
        known = {member.name: member for member in self.members}
        if unknown := next((name for name in use if name not in known), None):
            raise InvalidOption(f"use: there is no captioner {unknown!r}; the captioners are {', '.join(known)}.")
        found = tuple(member for member in self.members if not use or member.name in use)
        return found if several else found[:1]

    async def present(self, members: Sequence[Member]) -> tuple[dict[Member, ModelInfo], dict[Member, str]]:
        """What those say of themselves that answer, and why the others don't. Raises an error if none does."""
        if len(members) == 1:
            return {members[0]: await members[0].info()}, {}
        found = await self.together({member: member.info for member in members}, proves=False)
        infos = {member: info for member, info in found.items() if isinstance(info, ModelInfo)}
        lost = {member: error.message for member, error in found.items() if isinstance(error, ServiceError)}
        if not infos:
            raise next(error for error in found.values() if isinstance(error, ServiceError))
        return infos, lost

    def voices(self, infos: Mapping[Member, ModelInfo], picture: Pixels | Picture) -> tuple[Voice, ...]:
        """The members with their pictures, without those for whose model there is none."""
        alone = len(self.members) == 1
        found = []
        for member, info in infos.items():
            pixels = picture if isinstance(picture, Pixels) else picture.get(info.size)
            if pixels is not None:
                found.append(Voice(member, info, pixels, alone))
        return tuple(found)

    async def together(
        self,
        work: Mapping[Member, Callable[[], Awaitable[Result]]],
        deadline: Deadline = NEVER,
        failure: Callable[[Result], ServiceError | None] = lambda _: None,
        *,
        proves: bool = True,
    ) -> dict[Member, Result | ServiceError]:
        """What each member's work brings, or why it brings nothing; `failure` finds an error in a result.

        Once one has answered, the others have `patience_s` more, and no more than a share of the deadline. A member
        that failed the last requests is not asked as long as another one answers; one that answers has made up for
        its failures if that `proves` anything.
        """
        asked = {member: call for member, call in work.items() if not member.is_away} or dict(work)
        tasks = {member: asyncio.ensure_future(_tried(call)) for member, call in asked.items()}

        def answers(outcome: Result | ServiceError) -> bool:
            return not isinstance(outcome, ServiceError) and failure(outcome) is None

        try:
            patient = await self._wait(tasks.values(), deadline, answers)
        finally:
            late = [task for task in tasks.values() if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        found: dict[Member, Result | ServiceError] = {}
        for member in work:
            if member not in tasks:
                found[member] = GenerationFailed(f"It failed {MOST_LOSSES} requests; it is left alone for a while.")
                continue
            is_late = tasks[member] in late
            outcome: Result | ServiceError = DeadlineExceeded(LATE) if is_late else tasks[member].result()
            found[member] = outcome
            error = outcome if isinstance(outcome, ServiceError) else failure(outcome)
            if error is not None or proves:
                member.note(error, counts=patient if is_late else not isinstance(error, DeadlineExceeded | TryLater))
        return found

    async def _wait(
        self,
        tasks: Iterable[asyncio.Task[Result | ServiceError]],
        deadline: Deadline,
        answers: Callable[[Result | ServiceError], bool],
    ) -> bool:
        """Returns whether those that have not ended had all of `patience_s`."""
        waiting, end, patience_s = set(tasks), NEVER, self.patience_s
        while waiting:
            left = None if end is NEVER else end.left_s
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if end is NEVER and any(answers(task.result()) for task in done):
                patience_s = min(self.patience_s, SHARE * deadline.left_s)
                end = Deadline.after(patience_s)
        return patience_s == self.patience_s


async def _tried(call: Callable[[], Awaitable[Result]]) -> Result | ServiceError:
    try:
        return await call()
    except ServiceError as error:
        return error
    except ModelError as error:  # of one that cannot be loaded; the others may do without
        return GenerationFailed(error.message)
