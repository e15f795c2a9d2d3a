"""When an extension or a round is taken, as the classic strategy decides it."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.pipeline.clean import word_count
from serve_app.pipeline.merge import longest
from serve_app.pipeline.presets import CAPTION_SLOT

SHORT_CAPTION_WORDS = 10
"""A merge with fewer words than this is extended."""
EXTENSION_GAIN_WORDS = 5
"""An extension must be longer by more than this."""
ROUND_GAIN_WORDS = 8
"""A round must be longer by more than this."""


def needs_extension(caption: str) -> bool:
    return word_count(caption) < SHORT_CAPTION_WORDS


def choose_extension(caption: str, texts: Sequence[str]) -> str | None:
    """The longest of the texts that are more than five words longer than the caption, or None."""
    enough = [text for text in texts if word_count(text) > word_count(caption) + EXTENSION_GAIN_WORDS]
    return longest(enough) or None


def accepts_round(caption: str, text: str) -> bool:
    """True when the text is more than eight words longer than the caption."""
    return word_count(text) > word_count(caption) + ROUND_GAIN_WORDS


def fill(prompt: str, caption: str) -> str:
    """Puts the caption into the prompt's slot; braces in the caption mean nothing."""
    return prompt.replace(CAPTION_SLOT, caption)


def added(caption: str, text: str) -> str:
    """What `text` says beyond `caption` when it continues it, else all of it."""
    rest = text[len(caption) :]
    if caption and text.lower().startswith(caption.lower()) and not rest[:1].isalnum():
        return rest.lstrip(" ,;:")
    return text
