"""The deployment that holds a model and generates."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from serve_app.args import AppArgs
from serve_app.errors import ModelError
from serve_app.types import GenerateJob, ModelInfo, Outcome, Pixels

logger = logging.getLogger("ray.serve")


class CaptionerReplica:
    """One model on one device. Every call is a Generator call; see `serve_app.types.Generator`."""

    def __init__(self, args: AppArgs) -> None:
        # Imported here: the controller and the ingress replicas load this module too, and need no torch.
        import torch

        from serve_app.engine import ReferenceGenerator, load

        if args.torch_threads is not None:
            torch.set_num_threads(args.torch_threads)
        try:
            loaded = load(args.model, revision=args.revision, dtype=args.dtype, device=args.device)
        except ModelError as error:
            logger.error("The captioner cannot start: %s", error.message)
            raise RuntimeError(error.message) from None
        self._engine = ReferenceGenerator(loaded)

    async def info(self) -> ModelInfo:
        return await self._engine.info()

    async def generate(self, pixels: Pixels, jobs: Sequence[GenerateJob], timeout_s: float | None) -> list[Outcome]:
        return await self._engine.generate(pixels, jobs, timeout_s)

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()
