"""The Generator protocol over a deployment handle."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

from grpc.aio import AioRpcError
from ray.exceptions import RayActorError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve_app.errors import (
    CaptionServeError,
    DeadlineExceeded,
    GenerationFailed,
    GeneratorUnavailable,
    Overloaded,
    ServiceError,
    WrongImageSize,
)
from serve_app.types import GenerateJob, ModelInfo, Outcome, Pixels

logger = logging.getLogger("ray.serve")

GRACE_S = 5.0
"""A replica ends its work at the deadline; an answer that is later than this by more is given up."""

_LOST = (RayActorError, WorkerCrashedError, DeploymentUnavailableError, ConnectionError, AioRpcError)


class HandleGenerator:
    """Sends an image's jobs to caption replicas: all in one call, or in `spread` calls that hash apart.

    The image's digest is the session id, so that all its calls meet on one replica while that has room.
    A call whose replica is lost is sent again, at most `max_retries` times.
    """

    def __init__(self, handle: DeploymentHandle[Any], *, spread: int = 1, max_retries: int = 2) -> None:
        # By value over gRPC: an image is under half a megabyte, and an object reference costs more than that.
        self._handle: Any = handle.options(_by_reference=False)
        self._spread = spread
        self._max_retries = max_retries
        self._info: ModelInfo | None = None

    async def info(self) -> ModelInfo:
        if self._info is None:
            # Without a limit of its own: the caller's holds, and a replica may take minutes to load its model.
            self._info = await self._call(self._handle, "info", deadline=None)
        return self._info

    def reconfigure(self, spread: int, max_retries: int) -> None:
        """Later calls go by these."""
        self._spread = spread
        self._max_retries = max_retries

    async def generate(
        self, pixels: Pixels, jobs: Sequence[GenerateJob], timeout_s: float | None = None
    ) -> list[Outcome]:
        """Raises `ServiceError` when every call failed; otherwise failed calls leave errors as outcomes."""
        deadline = None if timeout_s is None else time.time() + timeout_s
        spread = self._spread
        groups = [list(jobs[start::spread]) for start in range(min(spread, len(jobs)))]
        calls = (self._group(pixels, group, number, deadline) for number, group in enumerate(groups))
        answers = await asyncio.gather(*calls)
        failures = [answer for answer in answers if isinstance(answer, ServiceError)]
        if failures and len(failures) == len(answers):
            raise failures[0]
        outcomes: list[Outcome] = [GenerationFailed("The replica returned too few texts.")] * len(jobs)
        for start, (group, answer) in enumerate(zip(groups, answers, strict=True)):
            outcomes[start::spread] = [answer] * len(group) if isinstance(answer, ServiceError) else answer
        if any(isinstance(outcome, WrongImageSize) for outcome in outcomes):
            self._info = None  # another model was deployed below this ingress
        return outcomes

    async def _group(
        self, pixels: Pixels, jobs: list[GenerateJob], number: int, deadline: float | None
    ) -> list[Outcome] | ServiceError:
        session = pixels.digest if number == 0 else f"{pixels.digest}:{number}"
        handle = self._handle.options(session_id=session)
        try:
            outcomes: list[Outcome] = await self._call(handle, "generate", pixels, jobs, deadline, deadline=deadline)
        except ServiceError as error:
            return error
        return outcomes

    async def _call(self, handle: Any, method: str, *arguments: Any, deadline: float | None) -> Any:
        """The replica's answer; a call whose replica is lost is sent again."""
        for _ in range(self._max_retries):
            try:
                return await self._answer(handle, method, arguments, deadline)
            except GeneratorUnavailable:
                logger.warning("A caption replica was lost; its call %r is sent again.", method)
        return await self._answer(handle, method, arguments, deadline)

    async def _answer(self, handle: Any, method: str, arguments: tuple[Any, ...], deadline: float | None) -> Any:
        """One try, with Ray's errors turned into ours."""
        patience = None if deadline is None else max(0.0, deadline - time.time()) + GRACE_S
        try:
            async with asyncio.timeout(patience):
                return await getattr(handle, method).remote(*arguments)
        except TimeoutError:
            raise DeadlineExceeded("No caption replica answered in time.") from None
        except BackPressureError:
            raise Overloaded("The queue of the caption replicas is full.") from None
        except CaptionServeError:
            raise
        except _LOST as error:
            raise GeneratorUnavailable("No caption replica could be reached.") from error
        except Exception as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, CaptionServeError):
                raise error.cause from None
            logger.exception("a caption replica failed")
            raise GenerationFailed("A caption replica failed; the service's log has the details.") from error
