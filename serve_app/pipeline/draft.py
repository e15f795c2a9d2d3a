"""What a strategy returns, and the prompts that every long strategy begins with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from serve_app.pipeline import presets
from serve_app.types import CaptionOptions, Clause, Contested, Round, Source, Variant


@dataclass(frozen=True, slots=True)
class Draft:
    """A caption with what it was made of."""

    caption: str
    variants: tuple[Variant, ...]
    clauses: tuple[Clause, ...]
    rounds: tuple[Round, ...] = ()
    contested: tuple[Contested, ...] = ()
    notices: tuple[str, ...] = ()


def variant_prompts(options: CaptionOptions) -> tuple[str, ...]:
    """The prompts of a request's variants."""
    return (*(options.prompts or presets.VARIANT_PROMPTS), *options.extra_prompts)


def placed(caption: str, pieces: Iterable[tuple[str, Source]]) -> tuple[Clause, ...]:
    """The pieces that stand in the caption, in its order, with their places."""
    clauses, end = [], 0
    for text, source in pieces:
        start = caption.lower().find(text.lower(), end) if text else -1
        if start >= 0:
            end = start + len(text)
            clauses.append(Clause(caption[start:end], start, end, source))
    return tuple(clauses)
