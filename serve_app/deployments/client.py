"""Captioning many images through the service's handle, from a Ray job, a task or another deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ray import serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.deployments.handle_errors import our_errors
from serve_app.errors import CaptionServeError, InvalidOption, ServiceError
from serve_app.retry import Retries, retried


@dataclass(frozen=True, slots=True)
class Captioned:
    """What became of one image: the answer's body, or the error that ended it."""

    index: int
    """Place of the image in the input, from 0."""
    body: dict[str, Any] | None = None
    error: CaptionServeError | None = None


class CaptionClient:
    """Sends images to `serve.get_app_handle("captions")`, so many at a time, and retries while the service is full.

    An error of the service (full, restarting, replicas lost) is retried after a pause, see `serve_app.retry.Retries`;
    a bad image or option is not.

        client = CaptionClient(serve.get_app_handle("captions"), concurrency=16)
        async for done in client.captions(images, {"detail": "medium"}):
            print(done.index, done.body["caption"] if done.body else done.error)
    """

    def __init__(
        self, handle: DeploymentHandle[Any], *, concurrency: int = 16, max_retries: int = 20, background: bool = False
    ) -> None:
        """`concurrency` is how many images are in progress at a time; what exceeds the service's capacity waits here.

        With `background` the service admits these images while half of its capacity stays free for others.
        """
        if concurrency < 1 or max_retries < 0:
            raise ValueError("concurrency must be at least 1 and max_retries at least 0")
        self._handle: Any = handle
        self._concurrency = concurrency
        self._max_retries = max_retries
        self._background = background

    @classmethod
    def connect(cls, application: str = "captions", **settings: Any) -> Self:
        """A client of the application of that name. Raises `InvalidOption` when it is not running."""
        try:
            return cls(serve.get_app_handle(application), **settings)
        except (RayServeException, ValueError) as error:
            raise InvalidOption(f"There is no application {application!r} on this cluster.") from error

    async def caption(self, image: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The body of one image's answer. Raises `RequestError`s, and `ServiceError`s when all tries are used up."""
        background = {"background": True} if self._background else {}
        body: dict[str, Any] = await self._patiently("caption", image, dict(options or {}), **background)
        return body

    async def describe(self) -> dict[str, Any]:
        """What the service offers, see `serve_app.contract.Description`."""
        body: dict[str, Any] = await self._patiently("describe")
        return body

    async def fingerprint(self, strategy: str | None = None, use: Sequence[str] = ()) -> str:
        """What makes the service's captions now, by a strategy or its default one; as their `fingerprint` says."""
        return str(await self._patiently("fingerprint", strategy, *([list(use)] if use else [])))

    async def match(self, image: Any, texts: Sequence[str]) -> dict[str, Any]:
        """How well each text describes the image; raises `NotDeployed` and what `caption` raises."""
        body: dict[str, Any] = await self._patiently("match", image, list(texts))
        return body

    async def answer(self, image: Any, question: str | Sequence[str]) -> dict[str, Any]:
        """The answer to a question, or to several; raises `NotDeployed` and what `caption` raises."""
        asked = (question,) if isinstance(question, str) else (None, {"questions": list(question)})
        body: dict[str, Any] = await self._patiently("answer", image, *asked)
        return body

    async def captions(
        self, images: Iterable[Any], options: Mapping[str, Any] | None = None
    ) -> AsyncIterator[Captioned]:
        """Yields one `Captioned` for each image as it is done, in no order; takes images as it needs them."""
        numbered = enumerate(images)
        running: set[asyncio.Task[Captioned]] = set()
        try:
            while True:
                while len(running) < self._concurrency and (following := next(numbered, None)) is not None:
                    running.add(asyncio.create_task(self._captioned(*following, options)))
                if not running:
                    return
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _captioned(self, index: int, image: Any, options: Mapping[str, Any] | None) -> Captioned:
        try:
            return Captioned(index, body=await self.caption(image, options))
        except CaptionServeError as error:
            return Captioned(index, error=error)

    async def _patiently(self, method: str, *arguments: Any, **named: Any) -> Any:
        return await retried(
            lambda: self._ask(method, *arguments, **named), Retries(self._max_retries, kinds=ServiceError)
        )

    async def _ask(self, method: str, *arguments: Any, **named: Any) -> Any:
        """One try, with Ray's errors turned into ours."""
        with our_errors("ingress"):
            return await getattr(self._handle, method).remote(*arguments, **named)
