"""The models of the tasks beside captions: one class of replica for all of them, and their protocols over handles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.args import AppArgs
from serve_app.deadline import Deadline
from serve_app.deployments.black_box import BlackBox
from serve_app.deployments.logs import log_with_serve
from serve_app.deployments.model_handle import ModelHandle
from serve_app.engines import START
from serve_app.task_types import Answer
from serve_app.tasks import ModelRole
from serve_app.types import Match, ModelInfo, Pixels


class TaskModelReplica:
    """One model on one device; see `serve_app.task_types`. Raises `ModelError`s when it cannot be loaded."""

    def __init__(self, args: AppArgs, role: ModelRole) -> None:
        log_with_serve()
        self._black_box = BlackBox()
        engine = START[role](args)
        assert engine is not None
        self._engine = engine

    async def info(self, _: Deadline) -> ModelInfo:
        return await self._engine.info()

    async def call(self, method: str, arguments: Sequence[Any], options: dict[str, Any], deadline: Deadline) -> Any:
        """A method of the model's protocol."""
        return await getattr(self._engine, method)(*arguments, deadline.left_s, **options)

    def check_health(self) -> None:
        self._engine.check_health()
        self._black_box.update()

    def __del__(self) -> None:
        if black_box := getattr(self, "_black_box", None):
            black_box.remove()
        if engine := getattr(self, "_engine", None):
            engine.close()


class TaskModelHandle(ModelHandle):
    async def _ask(
        self, method: str, *arguments: Any, timeout_s: float | None, pixels: Pixels | None = None, **options: Any
    ) -> Any:
        """`pixels` decide which replica is asked: the one that has the image encoded."""
        session = None if pixels is None else self._session(pixels)
        sent = arguments if pixels is None else (pixels, *arguments)
        return await self._call(session, "call", method, sent, options, deadline=Deadline.after(timeout_s))


class HandleMatcher(TaskModelHandle):
    """`MatchModel` over the Matcher deployment."""

    kind = "matcher"

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        matches: list[Match] = await self._ask(
            "match", list(texts), timeout_s=timeout_s, pixels=pixels, similarity=similarity
        )
        return matches

    async def embed_image(self, pixels: Pixels, timeout_s: float | None = None) -> list[float]:
        vector: list[float] = await self._ask("embed_image", timeout_s=timeout_s, pixels=pixels)
        return vector

    async def embed_texts(self, texts: Sequence[str], timeout_s: float | None = None) -> list[list[float]]:
        vectors: list[list[float]] = await self._ask("embed_texts", list(texts), timeout_s=timeout_s)
        return vectors


class HandleAnswerer(TaskModelHandle):
    """`Answerer` over the Answerer deployment."""

    kind = "answerer"

    async def answers(self, pixels: Pixels, questions: Sequence[str], timeout_s: float | None = None) -> list[Answer]:
        answers: list[Answer] = await self._ask("answers", list(questions), timeout_s=timeout_s, pixels=pixels)
        return answers
