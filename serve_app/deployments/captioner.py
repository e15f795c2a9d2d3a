"""The deployment that holds a model and generates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from serve_app.args import AppArgs
from serve_app.deployments.metrics import EngineMetrics
from serve_app.instant import InstantGenerator
from serve_app.types import GenerateJob, Generator, ModelInfo, Outcome, Pixels


class Engine(Generator, Protocol):
    """A Generator that has to be watched and closed."""

    def check_health(self) -> None: ...

    def close(self) -> None: ...


class CaptionerReplica:
    """One model on one device. Every call is a Generator call; see `serve_app.types.Generator`.

    Raises `ModelError`s when the model cannot be loaded; the deployment's status then ends with that sentence.
    """

    def __init__(self, args: AppArgs) -> None:
        self._engine = _engine(args)
        self._metrics = EngineMetrics()

    async def info(self) -> ModelInfo:
        return await self._engine.info()

    async def generate(self, pixels: Pixels, jobs: Sequence[GenerateJob], deadline: float | None) -> list[Outcome]:
        """`deadline` in seconds of the epoch, so that waiting for a replica counts too; None for no limit."""
        timeout_s = None if deadline is None else max(0.0, deadline - time.time())
        return await self._engine.generate(pixels, jobs, timeout_s)

    async def stream(
        self, pixels: Pixels, jobs: Sequence[GenerateJob], deadline: float | None
    ) -> AsyncIterator[tuple[int, Outcome]]:
        """Like `generate`, each job's place and outcome as it ends."""
        ended: asyncio.Queue[tuple[int, Outcome] | None] = asyncio.Queue()
        timeout_s = None if deadline is None else max(0.0, deadline - time.time())

        def tell(index: int, outcome: Outcome) -> None:
            ended.put_nowait((index, outcome))

        work = asyncio.ensure_future(self._engine.generate(pixels, jobs, timeout_s, tell))
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
        if (counters := getattr(self._engine, "counters", None)) is not None:
            self._metrics.update(counters)

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()


def _engine(args: AppArgs) -> Engine:
    if args.engine == "instant":
        return InstantGenerator(args.instant_delay_s)
    # Imported here: the controller and the ingress replicas load this module too, and need no torch.
    import torch

    from serve_app.engine import load, start

    if args.torch_threads is not None:
        torch.set_num_threads(args.torch_threads)
    loaded = load(args.model, revision=args.revision, dtype=args.dtype, device=args.device)
    return start(loaded, args.engine, args.engine_limits())
