"""What BLIP is known to write although nobody sees it: made-up words, empty openings, loops, cut ends."""

from __future__ import annotations

import re

from serve_app.pipeline.words import (
    BE,
    DETERMINERS,
    PREPOSITIONS,
    article_for,
    is_participle,
    is_plural,
    tokens,
    untokenized,
    words_of,
)

_MADE_UP = re.compile(
    r"(?P<before>^\s*|\b(?:is|are)\s+)?\b(?:(?P<article>a|an|the)\s+)?araf(?!at\b|ura)\w*\s*(?P<next>[\w-]+)?",
    re.IGNORECASE,
)
_OPENING = re.compile(r"^\s*there(?:\s+is|\s+are|'s|’s)\s+(?:also\s+)?", re.IGNORECASE)
_STOPS = frozenset(".;:!?")
MAX_LOOP_TOKENS = 12
"""Longest repeated stretch that is looked for."""
_UNFINISHED = words_of("a an the and or but with of in on at to for by from next while where plus as ,")
"""No caption ends with one of these."""


def denoise(text: str) -> str:
    """The text without made-up words, "there is" openings, loops, and an end that leads nowhere."""
    text = _OPENING.sub("", _MADE_UP.sub(_named, text))
    kept = _with_articles(_finished(_without_loops(tokens(text))))
    while kept and not kept[0][0].isalnum() and kept[0] not in "\"'“‘(":
        kept = kept[1:]
    return untokenized(kept)


def _named(match: re.Match[str]) -> str:
    """ "arafed man" stands for "a man"; before a verb there is no noun to save, within a phrase no article to add."""
    before, article, following = match["before"] or "", match["article"], match["next"]
    if following is None:
        return before
    word = following.lower()
    if word in _UNFINISHED | DETERMINERS | PREPOSITIONS | BE or is_participle(word):
        return before + following
    if article is None and match["before"] is None:
        return following
    if article and article.lower() == "the":
        return f"{before}the {following}"
    return f"{before}{following}" if is_plural(("the", word)) else f"{before}{article_for(following)} {following}"


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


def _with_articles(words: list[str]) -> list[str]:
    """ "an small owl" → "a small owl"."""

    def fitting(word: str, following: str) -> str:
        if word.lower() not in ("a", "an") or not following[:1].isalpha():
            return word
        article = article_for(following)
        return article.capitalize() if word[0].isupper() else article

    return [fitting(word, following) for word, following in zip(words, [*words[1:], ""][: len(words)], strict=True)]


def _finished(words: list[str]) -> list[str]:
    end = len(words)
    while end and (words[end - 1].lower() in _UNFINISHED or words[end - 1] in _STOPS):
        end -= 1
    cut = any(word.lower() in _UNFINISHED for word in words[end:])
    return words[:end] if cut else words
