"""What BLIP is known to write although nobody sees it: made-up words, empty openings, loops, cut ends."""

from __future__ import annotations

import re

from serve_app.pipeline.words import DETERMINERS, PREPOSITIONS, article_for, tokens, untokenized, words_of

_MADE_UP = re.compile(r"\b(?:(?:a|an|the)\s+)?araff?\w*\s*(?P<next>\w+)?", re.IGNORECASE)
_OPENING = re.compile(r"^\s*there(?:\s+is|\s+are|'s|’s)\s+(?:also\s+)?", re.IGNORECASE)
MAX_LOOP_TOKENS = 12
"""Longest repeated stretch that is looked for."""
_UNFINISHED = words_of("a an the and or but with of in on at to for by from next while where plus as ,")
"""No caption ends with one of these."""


def denoise(text: str) -> str:
    """The text without made-up words, "there is" openings, loops, and an end that leads nowhere."""
    text = _OPENING.sub("", _MADE_UP.sub(_named, text))
    kept = _finished(_without_loops(tokens(text)))
    return untokenized(kept)


def _named(match: re.Match[str]) -> str:
    """ "arafed man" stands for "a man"; "araffe" alone before a verb has no noun to save."""
    following = match["next"]
    if following is None:
        return ""
    if following.lower() in _UNFINISHED | DETERMINERS | PREPOSITIONS:
        return following
    return f"{article_for(following)} {following}"


def _without_loops(words: list[str]) -> list[str]:
    """Each stretch that is followed by itself stands once; so does "x and x" and "x, x"."""
    lower = [word.lower() for word in words]
    place = 0
    while place < len(words):
        for length in range(min(MAX_LOOP_TOKENS, (len(words) - place) // 2), 0, -1):
            end = place + length
            gap = 1 if lower[end] in (",", "and", "or") else 0
            if lower[place:end] == lower[end + gap : end + gap + length]:
                del words[end : end + gap + length], lower[end : end + gap + length]
                break
        else:
            place += 1
    return words


def _finished(words: list[str]) -> list[str]:
    while words and words[-1].lower() in _UNFINISHED:
        words.pop()
    return words
