"""What a strategy returns, and the prompts that every long strategy begins with."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.pipeline import presets
from serve_app.types import CaptionOptions, Clause, Round, Variant


@dataclass(frozen=True, slots=True)
class Draft:
    """A caption with what it was made of."""

    caption: str
    variants: tuple[Variant, ...]
    clauses: tuple[Clause, ...]
    rounds: tuple[Round, ...] = ()


def variant_prompts(options: CaptionOptions) -> tuple[str, ...]:
    """The prompts of a request's variants."""
    return (*(options.prompts or presets.VARIANT_PROMPTS), *options.extra_prompts)
