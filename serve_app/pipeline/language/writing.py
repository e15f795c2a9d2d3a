"""Sentences from words that know what was weighed for them: articles, capitals, marks, and where each piece stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.pipeline.language.lexicon import article_for
from serve_app.pipeline.language.names import NAMES
from serve_app.pipeline.language.noise import denoise
from serve_app.pipeline.language.reading import Statement
from serve_app.pipeline.language.tokens import tokens
from serve_app.types import Source

_STOPS = frozenset(".!?")
_CLOSING = frozenset(".,;:!?%)]”’")
_OPENING = frozenset("([“‘")
_JOINING = frozenset(("and", "or", "but", "plus", "while", "where", "as", "then", "also"))
"""No sentence begins with one of these."""
_ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True, slots=True)
class Mark:
    """What a word of the caption stands for: a statement of a text, its support and where the text came from."""

    statement: Statement
    source: Source
    score: float


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a mark of punctuation; `mark` is None for what only joins others."""

    text: str
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of a written text and what it stands for."""

    start: int
    end: int
    mark: Mark


def listed(items: Sequence[Sequence[Word]]) -> list[Word]:
    """`a`, `a and b`, `a, b and c`."""
    words: list[Word] = []
    for place, item in enumerate(items):
        if place:
            words.append(Word("and" if place == len(items) - 1 else ","))
        words += item
    return words


def write(sentences: Iterable[Sequence[Word]]) -> tuple[str, list[Stretch]]:
    """The text of the sentences, and its stretches in order; they don't overlap."""
    text, stretches_of_all = "", []
    for words in sentences:
        said, stretches = _sentence(words)
        if not said:
            continue
        offset = len(text) + 1 if text else 0
        text = f"{text} {said}" if text else said
        stretches_of_all += [Stretch(each.start + offset, each.end + offset, each.mark) for each in stretches]
    return text, stretches_of_all


def _sentence(words: Sequence[Word]) -> tuple[str, list[Stretch]]:
    kept = _marked(_trimmed(words))
    if not kept:
        return "", []
    spelled = _with_capitals(_with_articles([word.text for word in kept]))
    text = ""
    stretches: list[Stretch] = []
    for written, word in zip(spelled, kept, strict=True):
        if text and written not in _CLOSING and text[-1] not in _OPENING:
            text += " "
        start = len(text)
        text += written
        if word.mark is None:
            continue
        if stretches and stretches[-1].mark is word.mark:
            stretches[-1] = Stretch(stretches[-1].start, len(text), word.mark)
        else:
            stretches.append(Stretch(start, len(text), word.mark))
    return (text if text[-1] in ".!?" else f"{text}."), stretches


def tidied(text: str) -> str:
    """A text without noise, as sentences: capitals of names and of first letters, full stops."""
    sentences: list[list[Word]] = [[]]
    for word in tokens(denoise(text)):
        sentences[-1].append(Word(word))
        if word in _STOPS:
            sentences.append([])
    return write(sentences)[0]


def as_sentence(text: str) -> str:
    """A text in one line without Markdown's marks, with a capital at its beginning and a full stop at its end."""
    plain = " ".join(re.sub(r"[*_#`]+", "", text).split())
    return plain if not plain else plain[0].upper() + plain[1:] + ("" if plain[-1] in '.!?"”' else ".")


def _trimmed(words: Sequence[Word]) -> list[Word]:
    """Without marks that nothing stands between, or that begin or end the sentence."""
    kept: list[Word] = []
    for word in words:
        if word.text in _CLOSING and (not kept or kept[-1].text in _CLOSING or kept[-1].text in ("and", "or")):
            continue
        if word.text in ("and", "or") and kept and kept[-1].text in ("and", "or"):
            continue
        kept.append(word)
    while kept and (kept[-1].text in _CLOSING - {"%"} or kept[-1].text in ("and", "or", "but", "while", "where")):
        kept.pop()
    while kept and (kept[0].text in _JOINING or kept[0].text in _CLOSING):
        kept.pop(0)
    return kept


def _marked(words: Sequence[Word]) -> list[Word]:
    """Each joining word goes with what follows it, and an article with the word behind it."""
    merged: list[Word] = []
    following: Mark | None = None
    for word in reversed(words):
        if word.text in _CLOSING:
            merged.append(Word(word.text))
            continue
        if (word.mark is None or word.text.lower() in _ARTICLES) and following is not None:
            word = Word(word.text, following)
        following = word.mark or following
        merged.append(word)
    merged.reverse()
    last: Mark | None = None
    for place, word in enumerate(merged):
        if word.mark is None and word.text not in _CLOSING and last is not None:
            merged[place] = Word(word.text, last)
        last = merged[place].mark or last
    return _closed_up(merged)


def _closed_up(words: Sequence[Word]) -> list[Word]:
    """A comma within what one statement stands for belongs to it."""
    marked = list(words)
    for place in range(1, len(marked) - 1):
        if marked[place].text == "," and marked[place - 1].mark is marked[place + 1].mark:
            marked[place] = Word(",", marked[place - 1].mark)
    return marked


def _with_articles(words: Sequence[str]) -> list[str]:
    kept = []
    for word, following in zip(words, [*words[1:], ""][: len(words)], strict=True):
        if word.lower() in ("a", "an") and following[:1].isalpha():
            word = article_for(following) if word.islower() else article_for(following).capitalize()
        kept.append(word)
    return kept


def _with_capitals(words: Sequence[str]) -> list[str]:
    named = NAMES.restore(words)
    if named and named[0][:1].isalpha():
        named[0] = named[0][:1].upper() + named[0][1:]
    elif len(named) > 1 and named[0][:1] in "\"“'(":
        named[0] = named[0][:1] + named[0][1:2].upper() + named[0][2:]
    return [word if word != "i" else "I" for word in named]
