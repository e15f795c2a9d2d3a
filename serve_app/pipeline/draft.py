"""What a strategy returns, and the prompts that every long strategy begins with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serve_app.pipeline import presets
from serve_app.pipeline.committee import Ask
from serve_app.pipeline.context import Context
from serve_app.types import LEFT_OUT, TOO_LONG, Asked, CaptionOptions, Clause, Contested, Round, Source, Variant


@dataclass(frozen=True, slots=True)
class Draft:
    """A caption with what it was made of."""

    caption: str
    variants: tuple[Variant, ...]
    clauses: tuple[Clause, ...]
    rounds: tuple[Round, ...] = ()
    contested: tuple[Contested, ...] = ()
    answers: tuple[Asked, ...] = ()
    notices: tuple[str, ...] = ()
    matched: bool = False
    """Whether a matcher weighed every statement."""


def variant_prompts(options: CaptionOptions, own: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The prompts of a request's variants; `own` are the captioner's."""
    return (*(options.prompts or own or presets.VARIANT_PROMPTS), *options.extra_prompts)


def variant_asks(context: Context) -> tuple[Ask, ...]:
    """The variants of all captioners, one captioner's after the other's."""
    return tuple(
        Ask(voice, prompt)
        for voice in context.voices
        for prompt in variant_prompts(context.options, voice.info.prompts)
    )


def length_of(context: Context) -> Callable[[str], bool]:
    """Whether a text keeps the length that the request asks for."""
    words, characters = context.options.max_words, context.options.max_characters

    def fits(text: str) -> bool:
        return (words is None or len(text.split()) <= words) and (characters is None or len(text) <= characters)

    return fits


def length_notices(gone: int, fits: bool) -> tuple[str, ...]:
    """The notices of a caption that `gone` statements were left out of, and that may be too long all the same."""
    told = f"{LEFT_OUT} to keep the length that was asked for: {gone} statement{'' if gone == 1 else 's'}."
    return (*((told,) if gone else ()), *(() if fits else (TOO_LONG,)))


def placed(caption: str, pieces: Iterable[tuple[str, Source]]) -> tuple[Clause, ...]:
    """The pieces that stand in the caption, in its order, with their places."""
    clauses, end = [], 0
    for text, source in pieces:
        found = re.compile(re.escape(text), re.IGNORECASE).search(caption, end) if text else None
        if found is not None:
            start, end = found.span()
            clauses.append(Clause(caption[start:end], start, end, source))
    return tuple(clauses)
