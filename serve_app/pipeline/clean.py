"""Cleaning of generated texts, as the classic strategy does it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from serve_app.pipeline.presets import CAPTION_SLOT, EXTENSION_PROMPTS, ROUND_PROMPT, VARIANT_PROMPTS

OPENINGS = ("a picture of", "an image of", "a photo of", "a close up of", "a view of", "a scene of")
"""Further openings that say nothing about the image."""

_LEADING_PUNCTUATION = re.compile(r"^[\s:;,.!?\-–—]+")


def _pattern(prompt: str) -> str:
    # Decoding puts spaces around punctuation ("description : a dog"), so white space is matched loosely.
    words = re.findall(r"\w+|[^\w\s]", prompt.replace(CAPTION_SLOT, "").rstrip(" :"))
    return r"\s*".join(re.escape(word) for word in words) + (r"\b" if words and words[-1].isalnum() else "")


def _echo(prompts: Iterable[str]) -> re.Pattern[str]:
    patterns = sorted({_pattern(prompt) for prompt in prompts if prompt.strip()}, key=len, reverse=True)
    return re.compile(rf"^\s*(?:{'|'.join(patterns)})\s*:?\s*", re.IGNORECASE)


_PROMPTS = (*VARIANT_PROMPTS, *EXTENSION_PROMPTS, ROUND_PROMPT)
_ECHOES = {openings: _echo((*_PROMPTS, *openings)) for openings in (OPENINGS, ())}


def clean(text: str, prompts: Iterable[str] = (), openings: tuple[str, ...] = OPENINGS) -> str:
    """Drops leading prompt echoes, openings, colons and punctuation, folds white space, and capitalises.

    `prompts` are dropped besides the known ones.
    """
    own = tuple(prompts)
    echo = _echo((*_PROMPTS, *openings, *own)) if own or openings not in _ECHOES else _ECHOES[openings]
    text = " ".join(text.split())
    while True:
        shorter = _LEADING_PUNCTUATION.sub("", echo.sub("", text, count=1))
        if shorter == text:
            break
        text = shorter
    return text[:1].upper() + text[1:]


def word_count(text: str) -> int:
    return len(text.split())
