"""Merging of candidates into one caption, as the classic strategy does it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.pipeline.clean import word_count

MIN_CANDIDATE_CHARACTERS = 20
"""Candidates must be longer than this."""
SHORT_MERGE_WORDS = 25
"""A merge with fewer words than this is prefixed with the gathered words."""
GATHERED_WORD_CHARACTERS = 3
"""Gathered words are longer than this."""
MIN_GATHERED_WORDS = 10
"""More than this many gathered words are needed for the prefix."""
MAX_GATHERED_WORDS = 15


def candidates(texts: Sequence[str]) -> list[str]:
    """The cleaned texts that are long enough to be merged."""
    return [text for text in texts if len(text) > MIN_CANDIDATE_CHARACTERS]


def longest(texts: Sequence[str]) -> str:
    """The longest text by characters, the first of equals; empty if there is none."""
    return max(texts, key=len, default="")


def gathered_words(texts: Sequence[str]) -> list[str]:
    """The distinct words of all texts in order, without case and punctuation, those of more than three letters."""
    words = (word for text in texts for word in re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text.lower()))
    return list(dict.fromkeys(word for word in words if len(word) > GATHERED_WORD_CHARACTERS))


def gathered_prefix(texts: Sequence[str]) -> str:
    """`The image shows w1, …, w15. `, or nothing if the texts have too few words for it."""
    words = gathered_words(texts)
    if len(words) <= MIN_GATHERED_WORDS:
        return ""
    return f"The image shows {', '.join(words[:MAX_GATHERED_WORDS])}. "


def merge(texts: Sequence[str]) -> tuple[str, str]:
    """Merges cleaned texts. Returns (prefix, base); the caption is their concatenation.

    The base is the longest candidate. A single candidate stands as it is; none gives two empty texts.
    """
    kept = candidates(texts)
    base = longest(kept)
    if len(kept) < 2 or word_count(base) >= SHORT_MERGE_WORDS:
        return "", base
    return gathered_prefix(kept), base
