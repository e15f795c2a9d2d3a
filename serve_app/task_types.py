"""Values and protocols of the tasks beside captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.types import Matcher, ModelInfo, Pixels


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to a question about an image."""

    text: str
    probability: float
    """Product of the probabilities of the answer's tokens, its end included."""


class MatchModel(Matcher, Protocol):
    """A Matcher that also gives the vectors that it compares, each of length 1."""

    async def info(self) -> ModelInfo: ...

    async def embed_image(self, pixels: Pixels, timeout_s: float | None = None) -> list[float]: ...

    async def embed_texts(self, texts: Sequence[str], timeout_s: float | None = None) -> list[list[float]]: ...


class Answerer(Protocol):
    """Answers questions about images."""

    async def info(self) -> ModelInfo: ...

    async def answers(self, pixels: Pixels, questions: Sequence[str], timeout_s: float | None = None) -> list[Answer]:
        """An answer to each question. Raises `PromptTooLong`, `DeadlineExceeded` and other `ServiceError`s."""
        ...
