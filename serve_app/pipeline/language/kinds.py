"""What words mean: concepts under one name, what is a kind of what, what describing words tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from serve_app.pipeline.language.grammar import EMPTY, POSITIONS, data, words_of
from serve_app.pipeline.language.lexicon import lemma, parts_of_speech

_KINDS, _DESCRIBING = data("kinds"), data("describing")

WHERE = words_of("left right top bottom center")
"""Concepts of where in the picture something is; they are said of one thing at a time."""
OPPOSITES = {word: frozenset(others.split()) for word, others in _DESCRIBING["opposites"].items()}
SHADES = words_of(_DESCRIBING["shades"]["words"])
DESCRIBED_PARTS = words_of(_DESCRIBING["parts"]["words"])
EXCLUSIVE_KINDS = frozenset(_DESCRIBING["exclusive"])
MANY_COLOURED = words_of(_DESCRIBING["many_coloured"]["words"])
"""Concepts of describing words that contradict no colour."""
_KIND_OF_ADJECTIVE: dict[str, str] = {
    word: kind for kind, words in _DESCRIBING["kinds"].items() for word in words.split()
}
_ORDER = {kind: place for place, kind in enumerate(_DESCRIBING["kinds"])}
_COMPOUNDS = frozenset(_KINDS["compounds"]["names"].split("|"))
_CANONICAL = {
    other: lemma(word) if lemma(word) != word and other != word else word
    for word, others in _KINDS["same"].items()
    for other in others.split()
}
_EXCLUSIVE: dict[frozenset[str], str] = {
    frozenset(pair.split()): parent for parent, pairs in _KINDS["exclusive"].items() for pair in pairs.split("|")
}


@lru_cache(maxsize=65536)
def concept(word: str) -> str:
    """What a word means, under one name for all words that mean it: "racquets" → "racket", "plane" → "airplane"."""
    name = lemma(word)
    for _ in range(2):
        name = _CANONICAL.get(name, name)
    return name


_PARENTS: dict[str, frozenset[str]] = {}
for _parent, _children in _KINDS["kinds"].items():
    for _child in map(concept, _children.split()):
        if _child != concept(_parent):
            _PARENTS[_child] = _PARENTS.get(_child, frozenset()) | {concept(_parent)}


@lru_cache(maxsize=16384)
def kinds_of(name: str) -> frozenset[str]:
    """Everything that a concept is a kind of: puppy → dog, animal."""
    above: set[str] = set()
    queue = [name]
    while queue:
        for parent in _PARENTS.get(queue.pop(), ()):
            if parent not in above:
                above.add(parent)
                queue.append(parent)
    return frozenset(above)


def exclusive(first: str, second: str) -> str | None:
    """What to say instead of two names that one thing can't have both ("man", "woman" → "person"); None if it can."""
    for one in (first, *sorted(kinds_of(first))):
        for other in (second, *sorted(kinds_of(second))):
            if (parent := _EXCLUSIVE.get(frozenset((one, other)))) is not None:
                return parent
    return None


def kind_of_adjective(word: str) -> str | None:
    return _KIND_OF_ADJECTIVE.get(word)


def order_of(word: str) -> int:
    """Where an adjective stands before a noun: size before colour before material."""
    return _ORDER.get(_KIND_OF_ADJECTIVE.get(word, "shape"), 0)


def may_be_noun(word: str) -> bool:
    """Whether an adjective can stand for a thing: "a man in black"; never "full" or "large"."""
    kind = _KIND_OF_ADJECTIVE.get(word)
    if kind is None:
        return bool(parts_of_speech(word) & {"NOUN"})
    return kind in ("colour", "material", "origin") or word in ("adult", "baby", "square", "antique")


def is_adjective(word: str) -> bool:
    """Whether a word describes the noun behind it and is no name of a thing itself."""
    if word in _KIND_OF_ADJECTIVE or word in SHADES:
        return True
    if word in POSITIONS:
        return False
    parts = parts_of_speech(word)
    return "ADJ" in parts and "NOUN" not in parts


def is_known_compound(words: Sequence[str]) -> bool:
    """Whether two words name something that is no kind of the last: "hot dog"."""
    return f"{words[-2]} {lemma(words[-1])}" in _COMPOUNDS if len(words) > 1 else False


def content(words: Iterable[str]) -> frozenset[str]:
    """The concepts of lower-case words that are not empty, numbers among them."""
    return frozenset(concept(word) for word in words if word not in EMPTY and word[:1].isalnum())
