"""Words and marks of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable

from serve_app.pipeline.language.grammar import TORN

_TOKEN = re.compile(
    r"\d+(?:[.:,]\d+)+|\b(?:st|mr|mrs|dr)\.(?= \w)|\"[^\"]+\"|[\w&][\w'’&/-]*(?:\.(?=\w)\w+)*|[,.;:!?]|[^\s\w]"
)
_TORN_MARK = re.compile(r"(?<!\bthe)(?<!\bin)(?<!\bof)(?<!\ba)(?<=\w) ([-'’/]) (?=\w)")
_DASH = re.compile(r" [-–—] (?=(?:a|an|the|his|her|its|their|two|with|and|in|on|at|of|by)\b)")
_QUOTED = re.compile(r'"\s*([^"]*?)\s*"')
STOPS = frozenset(".;:!?")


def tokens(text: str) -> list[str]:
    """Words, numbers, quoted texts and marks. What the tokenizer tore apart ("t - shirt", "woman ' s") is joined."""
    text = _QUOTED.sub(r'"\1"', _TORN_MARK.sub(r"\1", _DASH.sub(", ", text)))
    text = re.sub(r"\b(close) (up)\b(?= (?:of|view|shot|image|photo|picture)\b)", r"\1-\2", text, flags=re.IGNORECASE)
    return _mended(_TOKEN.findall(re.sub(r"(?<=\w) (['’]) (?=s\b)", r"\1", text)))


def _mended(words: list[str]) -> list[str]:
    """Names that were torn apart in one: "fire place" → "fireplace"."""
    for place in range(len(words) - 2, -1, -1):
        if (words[place].lower(), words[place + 1].lower()) in TORN:
            words[place : place + 2] = [words[place] + words[place + 1]]
    return words


def untokenized(words: Iterable[str]) -> str:
    return re.sub(r" ([,.;:!?%])", r"\1", " ".join(words))
