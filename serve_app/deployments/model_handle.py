"""Calls of a deployment that holds a model: deadline, errors, and retries if a replica is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeVar

from ray.serve.handle import DeploymentHandle

from serve_app.deadline import NEVER, Deadline
from serve_app.deployments import black_box
from serve_app.deployments.handle_errors import our_errors
from serve_app.deployments.routed import ROUTES
from serve_app.errors import CaptionServeError, GeneratorUnavailable, ReplicasCrashed, ServiceError, WrongImageSize
from serve_app.retry import Retries, retried
from serve_app.types import ModelInfo, Pixels

logger = logging.getLogger("ray.serve")

REFRESH_S = 30.0
"""What a replica says of its model is asked again after this: a rollout may have brought another one."""
GRACE_S = 5.0
"""A replica ends its work at the deadline; an answer that is later than this by more is given up."""

MOST_CRASHES = 2
"""An image that has cost so many replicas is not given to another one."""

Result = TypeVar("Result")


class ModelHandle:
    """One kind of replica. Every method of a replica takes the deadline as its last argument."""

    kind: ClassVar[str]
    """What errors call the replicas."""

    def __init__(self, handle: DeploymentHandle[Any], *, max_retries: int) -> None:
        """A call whose replica is lost is sent again, at most `max_retries` times."""
        # By value over gRPC: an image is under half a megabyte, and an object reference costs more than that.
        self._handle: Any = handle.options(_by_reference=False)
        self._max_retries = max_retries
        self._info: ModelInfo | None = None
        self._asked = 0.0
        self._refresh: asyncio.Task[None] | None = None

    def reconfigure(self, *, max_retries: int) -> None:
        """For later calls."""
        self._max_retries = max_retries

    async def info(self) -> ModelInfo:
        """What a replica said of its model, half a minute ago at the most if replicas answer."""
        if self._info is None:
            # No limit here: the caller's holds, and a replica may take minutes to load its model.
            self._info = await self._call(None, "info", deadline=NEVER)
            self._asked = time.monotonic()
        elif time.monotonic() - self._asked > REFRESH_S and (self._refresh is None or self._refresh.done()):
            self._asked = time.monotonic()
            self._refresh = asyncio.create_task(self._ask_again())
        return self._info

    async def _ask_again(self) -> None:
        with contextlib.suppress(ServiceError):  # what is known stands
            self._info = await self._call(None, "info", deadline=Deadline.after(REFRESH_S))

    def _session(self, pixels: Pixels, number: int = 0) -> str:
        """Calls of a session meet on one replica while that has capacity; those of another number on another."""
        return f"{pixels.digest}:{number}" if number else pixels.digest

    def _to(self, session: str | None) -> Any:
        return self._handle if session is None else self._handle.options(session_id=session)

    async def _call(self, session: str | None, method: str, *arguments: Any, deadline: Deadline) -> Any:
        """The replica's answer. Raises `CaptionServeError`s."""

        async def send() -> Any:
            async with self._patience(deadline):
                return await getattr(self._to(session), method).remote(*arguments, deadline)

        try:
            return await self._retried(send, session)
        except WrongImageSize:  # another model was deployed below this ingress
            self._info = None
            raise

    async def _retried(self, send: Callable[[], Awaitable[Result]], session: str | None) -> Result:
        """What `send` returns, sent again at once if its replica is lost.

        Raises `ReplicasCrashed` instead of a third try if two replicas crashed or ran out of memory.
        """
        retries = Retries(self._max_retries, longest_pause_s=0, kinds=GeneratorUnavailable)
        lost = 0

        async def attempt() -> Result:
            nonlocal lost
            try:
                return await send()
            except GeneratorUnavailable as error:
                lost += 1
                if lost == MOST_CRASHES and session is not None and await self._crashed(session):
                    raise ReplicasCrashed(
                        f"{MOST_CRASHES} {self.kind} replicas crashed with this image in work; it is not tried again."
                    ) from error
                raise

        return await retried(attempt, retries, on_retry=self._log)

    async def _crashed(self, session: str) -> bool:
        """Whether the last replicas that had the session's calls crashed."""
        replicas = ROUTES.last(f"{self._handle.deployment_name}:{session}")
        return len(replicas) == MOST_CRASHES and await black_box.crashed(replicas)

    @asynccontextmanager
    async def _patience(self, deadline: Deadline) -> AsyncIterator[None]:
        """Raises `DeadlineExceeded` if the block goes on after the deadline and the grace, and Ray's errors as ours."""
        async with deadline.later(GRACE_S).enforced(f"No {self.kind} replica answered in time."):
            with our_errors(self.kind):
                yield

    def _log(self, _: CaptionServeError) -> None:
        logger.warning("A %s replica was lost; what it has not answered is sent again.", self.kind)
