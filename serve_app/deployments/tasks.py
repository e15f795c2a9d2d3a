"""The deployments of BLIP's other tasks, matching and question answering, and their protocols over handles."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ray.serve.handle import DeploymentHandle

from serve_app.args import AppArgs
from serve_app.deployments.calls import ReplicaCalls
from serve_app.engines import start_answerer, start_matcher
from serve_app.task_types import Answer
from serve_app.types import Match, ModelInfo, Pixels


class MatcherReplica:
    """One matching model on one device; see `serve_app.task_types.MatchModel`. `deadline` in seconds of the epoch.

    Raises `ModelError`s when the model cannot be loaded.
    """

    def __init__(self, args: AppArgs) -> None:
        engine = start_matcher(args)
        assert engine is not None
        self._engine = engine

    async def info(self) -> ModelInfo:
        return await self._engine.info()

    async def match(
        self, pixels: Pixels, texts: Sequence[str], deadline: float | None, similarity: bool
    ) -> list[Match]:
        return await self._engine.match(pixels, texts, _left(deadline), similarity=similarity)

    async def embed_image(self, pixels: Pixels, deadline: float | None) -> list[float]:
        return await self._engine.embed_image(pixels, _left(deadline))

    async def embed_texts(self, texts: Sequence[str], deadline: float | None) -> list[list[float]]:
        return await self._engine.embed_texts(texts, _left(deadline))

    def check_health(self) -> None:
        self._engine.check_health()

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()


class AnswererReplica:
    """One question answering model on one device; see `serve_app.task_types.Answerer`."""

    def __init__(self, args: AppArgs) -> None:
        engine = start_answerer(args)
        assert engine is not None
        self._engine = engine

    async def info(self) -> ModelInfo:
        return await self._engine.info()

    async def answer(self, pixels: Pixels, question: str, deadline: float | None) -> Answer:
        return await self._engine.answer(pixels, question, _left(deadline))

    def check_health(self) -> None:
        self._engine.check_health()

    def __del__(self) -> None:
        if engine := getattr(self, "_engine", None):
            engine.close()


class HandleMatcher:
    """`MatchModel` over the Matcher deployment; an image meets the replica that has it encoded."""

    def __init__(self, handle: DeploymentHandle[Any], max_retries: int) -> None:
        self._handle: Any = handle.options(_by_reference=False)
        self._calls = ReplicaCalls("matcher", max_retries)
        self._info: ModelInfo | None = None

    def reconfigure(self, max_retries: int) -> None:
        self._calls.max_retries = max_retries

    async def info(self) -> ModelInfo:
        if self._info is None:
            # Without a limit of its own: the caller's holds, and a replica may take minutes to load its model.
            self._info = await self._calls(self._handle, "info", deadline=None)
        return self._info

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        deadline = _deadline(timeout_s)
        handle = self._handle.options(session_id=pixels.digest)
        matches: list[Match] = await self._calls(
            handle, "match", pixels, list(texts), deadline, similarity, deadline=deadline
        )
        return matches

    async def embed_image(self, pixels: Pixels, timeout_s: float | None = None) -> list[float]:
        deadline = _deadline(timeout_s)
        handle = self._handle.options(session_id=pixels.digest)
        vector: list[float] = await self._calls(handle, "embed_image", pixels, deadline, deadline=deadline)
        return vector

    async def embed_texts(self, texts: Sequence[str], timeout_s: float | None = None) -> list[list[float]]:
        deadline = _deadline(timeout_s)
        vectors: list[list[float]] = await self._calls(
            self._handle, "embed_texts", list(texts), deadline, deadline=deadline
        )
        return vectors


class HandleAnswerer:
    """`Answerer` over the Answerer deployment."""

    def __init__(self, handle: DeploymentHandle[Any], max_retries: int) -> None:
        self._handle: Any = handle.options(_by_reference=False)
        self._calls = ReplicaCalls("answerer", max_retries)
        self._info: ModelInfo | None = None

    def reconfigure(self, max_retries: int) -> None:
        self._calls.max_retries = max_retries

    async def info(self) -> ModelInfo:
        if self._info is None:
            # Without a limit of its own: the caller's holds, and a replica may take minutes to load its model.
            self._info = await self._calls(self._handle, "info", deadline=None)
        return self._info

    async def answer(self, pixels: Pixels, question: str, timeout_s: float | None = None) -> Answer:
        deadline = _deadline(timeout_s)
        handle = self._handle.options(session_id=pixels.digest)
        answer: Answer = await self._calls(handle, "answer", pixels, question, deadline, deadline=deadline)
        return answer


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.time())


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.time() + timeout_s
