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
from serve_app.errors import (
    CaptionRefused,
    CaptionServeError,
    DeadlineExceeded,
    GenerationFailed,
    InvalidOption,
    RequestError,
    TryLater,
)
from serve_app.steps import ONLY
from serve_app.types import Generator, ModelInfo, Picture, Pixels

logger = logging.getLogger(__name__)

SHARE = 0.5
"""Of the time that a request has left: as long as the others wait for a captioner at the most."""
MOST_LOSSES = 2
"""Requests one after the other that a captioner failed, from which on it is left alone for a while."""
PAUSE_S = 15.0

START_PATIENCE_S = 5.0
"""As `captioner_patience_s`, for one that has not said yet which model it is."""
FAIR_S = 10.0
"""A captioner that is later than this by its own has failed."""
LATE = "It took much longer than the others."
_EXCUSED = (RequestError, CaptionRefused, DeadlineExceeded, TryLater)

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

    def note(self, error: CaptionServeError | None, counts: bool = True) -> None:
        """What a request met; an error that does not count is not the captioner's fault."""
        if error is None:
            self._losses = 0
        elif counts:
            self._losses += 1
        if self._losses >= MOST_LOSSES:
            self._losses, self._away_until = 0, time.monotonic() + PAUSE_S
            logger.warning("The captioner %s failed %d requests; none for %.0f s.", self.name, MOST_LOSSES, PAUSE_S)

    def rest(self) -> None:
        """Leaves it alone for a while: it has not even said which model it is."""
        self._away_until = time.monotonic() + PAUSE_S


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

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    def chosen(self, use: Sequence[str], several: bool) -> tuple[Member, ...]:
        """Those that a request names, by default all, or only the first of them. Raises `InvalidOption`."""
        if use and self.names == (ONLY,):
            raise InvalidOption("use: this service has one captioner; there is nothing to choose.")
        known = {member.name: member for member in self.members}
        if unknown := next((name for name in use if name not in known), None):
            raise InvalidOption(f"use: there is no captioner {unknown!r}; the captioners are {', '.join(known)}.")
        found = tuple(member for member in self.members if not use or member.name in use)
        return found if several else found[:1]

    async def present(
        self, members: Sequence[Member], deadline: Deadline = NEVER
    ) -> tuple[dict[Member, ModelInfo], dict[Member, str]]:
        """What those say of themselves that answer, and why the others don't. Raises an error if none does.

        One that has yet to start is waited for briefly once another one has answered.
        """
        if len(members) == 1:
            return {members[0]: await members[0].info()}, {}
        found = await self.together({member: member.info for member in members}, deadline, patience_s=START_PATIENCE_S)
        infos = {member: info for member, info in found.items() if isinstance(info, ModelInfo)}
        lost = {member: error for member, error in found.items() if isinstance(error, CaptionServeError)}
        if not infos:
            raise next(iter(lost.values()))
        for member in lost:
            if not member.is_away:
                member.rest()
        return infos, {member: error.message for member, error in lost.items()}

    def voices(self, infos: Mapping[Member, ModelInfo], picture: Pixels | Picture) -> tuple[Voice, ...]:
        """The members with their pictures, without those for whose model there is none."""
        alone = self.names == (ONLY,)
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
        *,
        patience_s: float = math.inf,
        failure: Callable[[Result], CaptionServeError | None] | None = None,
    ) -> dict[Member, Result | CaptionServeError]:
        """What each member's work brings, or why it brings nothing; `failure` finds an error in a result.

        Once one has answered, the others have `patience_s` of the committee or of the call more, and no more than a
        share of the deadline. A member that failed the last requests is not asked as long as another one answers. With
        `failure` it is noted who answers and who fails.
        """
        asked = {member: call for member, call in work.items() if not member.is_away} or dict(work)
        tasks = {member: asyncio.ensure_future(_tried(call, member)) for member, call in asked.items()}

        def error_of(outcome: Result | CaptionServeError) -> CaptionServeError | None:
            if isinstance(outcome, CaptionServeError):
                return outcome
            return None if failure is None else failure(outcome)

        try:
            waited_s = await self._wait(tasks.values(), min(patience_s, self.patience_s), deadline, error_of)
        finally:
            late = [task for task in tasks.values() if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        found: dict[Member, Result | CaptionServeError] = {}
        for member in work:
            if member not in tasks:
                found[member] = GenerationFailed("It failed the last requests; it is left alone for a while.")
                continue
            is_late = tasks[member] in late
            outcome: Result | CaptionServeError = DeadlineExceeded(LATE) if is_late else tasks[member].result()
            found[member] = outcome
            if failure is not None:
                # Not its fault: what a request asks for, a full service, and a time limit that nobody could have kept.
                excused = (
                    waited_s < min(FAIR_S, self.patience_s) if is_late else isinstance(error_of(outcome), _EXCUSED)
                )
                member.note(error_of(outcome), counts=not excused)
        return found

    async def _wait(
        self,
        tasks: Iterable[asyncio.Task[Result | CaptionServeError]],
        patience_s: float,
        deadline: Deadline,
        error_of: Callable[[Result | CaptionServeError], CaptionServeError | None],
    ) -> float:
        """Returns how long those that have not ended were waited for once another one had answered (seconds)."""
        waiting, end = set(tasks), NEVER
        while waiting:
            left = None if end is NEVER else end.left_s
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if end is NEVER and any(error_of(task.result()) is None for task in done):
                patience_s = min(patience_s, SHARE * deadline.left_s)
                end = NEVER if math.isinf(patience_s) else Deadline.after(patience_s)
        return patience_s


async def _tried(call: Callable[[], Awaitable[Result]], member: Member) -> Result | CaptionServeError:
    try:
        return await call()
    except CaptionServeError as error:
        return error
    except Exception:  # the others may do without
        logger.exception("the captioner %s failed", member.name)
        return GenerationFailed("It failed; the service's log has the details.")
