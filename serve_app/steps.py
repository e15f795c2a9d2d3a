"""The captioner, and the steps that it reports while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serve_app.types import (
    Asked,
    CaptionOptions,
    CaptionResult,
    ModelInfo,
    Picture,
    Pixels,
    Round,
    Size,
    Strategy,
    Variant,
)


@dataclass(frozen=True, slots=True)
class Started:
    """What will run: the first step of every request."""

    model: str
    prompts: tuple[str, ...]
    rounds: int
    captioners: tuple[str, ...]
    """Who is asked each of the prompts."""


@dataclass(frozen=True, slots=True)
class VariantDone:
    """A variant ended; `index` is its place among the prompts, from 1."""

    index: int
    variant: Variant


@dataclass(frozen=True, slots=True)
class Merged:
    """The variants' texts became one caption."""

    text: str


@dataclass(frozen=True, slots=True)
class Extended:
    """What the extension of a short merge proposed, and whether it was taken."""

    text: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A question was answered; `index` is its place among the questions, from 1."""

    index: int
    asked: Asked


ONLY = "captioner"
"""Name of a captioner that has no others beside it."""
SEVERAL = "+"
"""Joins the names of several captioners to that of the model."""
Work = Mapping[str, int]
"""Captioner → rows that it decodes for a request, summed over its generate calls: the unit of admission."""

Step = Started | VariantDone | Merged | Extended | Answered | Round
OnStep = Callable[[Step], None]


class Captioner(Protocol):
    """The whole way from pixels to a caption; what the HTTP layer, the handle and the command line call."""

    @property
    def captioners(self) -> tuple[str, ...]:
        """Names of the captioners, if there are several."""
        ...

    async def info(self) -> ModelInfo:
        """The first model that answers."""
        ...

    async def sizes(self, options: CaptionOptions) -> tuple[Size, ...]:
        """At which sizes `caption` needs the image."""
        ...

    async def caption(
        self, picture: Pixels | Picture, options: CaptionOptions, on_step: OnStep | None = None
    ) -> CaptionResult:
        """`on_step` is called with each step as it is done.

        Raises `RequestError` if the options don't fit the model, `ServiceError` if nothing was produced."""
        ...

    async def fingerprint(self, strategy: Strategy, use: Sequence[str] = ()) -> str:
        """What makes the captions of a strategy as long as nothing is lost, see `CaptionResult.fingerprint`."""
        ...

    def work(self, options: CaptionOptions) -> Work:
        """What the request takes. Raises `InvalidOption`."""
        ...

    async def probe(self) -> None:
        """Runs one tiny generate; raises `ServiceError` when the generate path does not work."""
        ...
