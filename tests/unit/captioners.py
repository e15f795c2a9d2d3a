"""A captioner without models, for tests of the doors in front of it."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.steps import ONLY, OnStep, Started, Work
from serve_app.types import (
    LEFT_OUT,
    CaptionOptions,
    CaptionResult,
    Clause,
    Contested,
    ModelInfo,
    Picture,
    Pixels,
    Size,
    Source,
    Strategy,
)
from tests.unit.fakes import INFO

STATEMENTS = ("A dog lies on a couch.", "A cat sits by it.", "There is a window.")
SOURCES = (
    Source("variant", 2, prompt="a photography of"),
    Source("extension", 1, captioner="another", prompt="describe it"),
    Source("variant"),
)
FINGERPRINT = "1.a.b.c"
CONTESTED = Contested("The dog stands.", 0.31, "A dog lies on a couch.", 0.92)
LENGTH = {"max_words": 9, "max_characters": 60, "tidy": False}
"""Options of which every door must tell the captioner."""


class TellingCaptioner:
    """Says as many of `STATEMENTS` as fit into `max_words`, at least one; keeps the options that it was given."""

    def __init__(self) -> None:
        self.asked: list[CaptionOptions] = []

    captioners: tuple[str, ...] = ()

    async def info(self) -> ModelInfo:
        return INFO

    async def sizes(self, options: CaptionOptions) -> tuple[Size, ...]:
        return (INFO.size,)

    async def caption(
        self, picture: Pixels | Picture, options: CaptionOptions, on_step: OnStep | None = None
    ) -> CaptionResult:
        self.asked.append(options)
        if on_step is not None:
            on_step(Started(INFO.name, ("",), 1, (INFO.name,)))
        said = list(STATEMENTS)
        while len(said) > 1 and len(" ".join(said).split()) > (options.max_words or 1000):
            said.pop()
        missing = len(STATEMENTS) - len(said)
        caption = " ".join(said)
        starts = [caption.index(statement) for statement in said]
        return CaptionResult(
            caption=caption,
            model=INFO.name,
            seed=options.seed,
            clauses=tuple(
                Clause(text.rstrip("."), start, start + len(text) - 1, source, text, 0.92)
                for text, start, source in zip(said, starts, SOURCES, strict=False)
            ),
            contested=(CONTESTED,),
            fingerprint=FINGERPRINT,
            notices=(f"{LEFT_OUT} for the length: {missing} statements.",) if missing else ("It is a drawing.",),
        )

    def work(self, options: CaptionOptions) -> Work:
        return {ONLY: 1}

    async def fingerprint(self, strategy: Strategy, use: Sequence[str] = ()) -> str:
        return FINGERPRINT

    async def probe(self) -> None:
        pass


def length_of(options: CaptionOptions) -> dict[str, object]:
    """The options of `LENGTH`, as the captioner was given them."""
    return {name: getattr(options, name) for name in LENGTH}
