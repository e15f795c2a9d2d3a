"""The deployment that holds a model and generates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from serve_app.args import AppArgs
from serve_app.deadline import Deadline
from serve_app.deployments.black_box import BlackBox
from serve_app.deployments.logs import log_with_serve
from serve_app.deployments.metrics import CounterMetrics
from serve_app.engines import start_captioner
from serve_app.types import GenerateJob, ModelInfo, Outcome, Pixels


class CaptionerReplica:
    """One model on one device. Every call is a Generator call; see `serve_app.types.Generator`.

    Raises `ModelError`s when the model cannot be loaded; the deployment's status then ends with that sentence.
    """

    def __init__(self, args: AppArgs, name: str) -> None:
        """`args` are those of the captioner of that name, see `AppArgs.each`."""
        log_with_serve()
        self._black_box = BlackBox()
        self._engine = start_captioner(args, name)
        self._metrics = CounterMetrics.of(args)

    async def info(self, _: Deadline) -> ModelInfo:
        return await self._engine.info()

    async def generate(self, pixels: Pixels, jobs: Sequence[GenerateJob], deadline: Deadline) -> list[Outcome]:
        """The deadline counts the time that the call waited for a replica."""
        return await self._engine.generate(pixels, jobs, deadline.left_s)

    async def stream(
        self, pixels: Pixels, jobs: Sequence[GenerateJob], deadline: Deadline
    ) -> AsyncIterator[tuple[int, Outcome]]:
        """Like `generate`, each job's place and outcome as it ends."""
        ended: asyncio.Queue[tuple[int, Outcome] | None] = asyncio.Queue()

        def tell(index: int, outcome: Outcome) -> None:
            ended.put_nowait((index, outcome))

        work = asyncio.ensure_future(self._engine.generate(pixels, jobs, deadline.left_s, tell))
        work.add_done_callback(lambda _: ended.put_nowait(None))
        try:
            while (item := await ended.get()) is not None:
                yield item
            await work
        finally:
            work.cancel()

    def check_health(self) -> None:
        """Serve replaces the replica when this raises. The metrics are brought up to date on the way."""
        self._engine.check_health()
        self._black_box.update()
        if (counters := getattr(self._engine, "counters", None)) is not None:
            self._metrics.update(counters)

    def __del__(self) -> None:
        if black_box := getattr(self, "_black_box", None):
            black_box.remove()
        if engine := getattr(self, "_engine", None):
            engine.close()
