"""What a text claims of a scene: counts, sizes, positions and the background, each true or false.

The text is read word by word, by the same rules for every strategy; the matcher has no part in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.backgrounds import BACKGROUNDS
from lab.objects import BY_WORD
from lab.scenes import Scene

_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3}
_SIZES = ("large", "small")
_BREAKS = frozenset((".", "while", "where", "with", "there"))
_POSITIONS = (
    *((("the", row, column), f"{row} {column}") for row in ("top", "bottom") for column in ("left", "right")),
    (("the", "center"), "center"),
    *((("the", side, "side"), side) for side in ("left", "right")),
    *(
        (("the", half, word), place)
        for half, place in (("upper", "top"), ("lower", "bottom"))
        for word in ("half", "one")
    ),
)
"""Words, and the cell or the part of a cell's name that they mean."""


@dataclass(frozen=True, slots=True)
class Claim:
    """`kind`: count, size, position or background. `noun` is empty for the background."""

    kind: str
    noun: str
    value: str

    def holds(self, scene: Scene) -> bool:
        if self.kind == "background":
            return BACKGROUNDS[scene.background].name == self.value
        group = next((group for group in scene.groups if group.noun == self.noun), None)
        if group is None:
            return False
        if self.kind == "count":
            return str(group.count) == self.value
        if self.kind == "size":
            return group.size == self.value
        return self.value == group.cell if " " in self.value or self.value == "center" else self.value in group.cell


def facts_of(scene: Scene) -> set[Claim]:
    """What could be told of a scene: count, size and place of every group, and the background."""
    found = {Claim("background", "", BACKGROUNDS[scene.background].name)}
    for group in scene.groups:
        values = {"count": str(group.count), "size": group.size, "position": group.cell}
        found |= {Claim(kind, group.noun, value) for kind, value in values.items()}
    return found


@dataclass
class _Subject:
    """The nouns that a position would be said of."""

    nouns: list[str] = field(default_factory=list)
    verb: bool = False
    placed: bool = False


def claims(text: str) -> set[Claim]:
    """All claims of a text, each once."""
    return set(_claims(re.findall(r"[a-z]+|[.]", text.lower())))


def _claims(words: list[str]) -> Iterator[Claim]:
    subject = _Subject()
    for at, word in enumerate(words):
        before = words[max(0, at - 2) : at]
        if word in _BREAKS:
            subject = _Subject()
        elif word in BY_WORD:
            if subject.placed:
                subject = _Subject()
            noun = BY_WORD[word].noun
            subject.nouns.append(noun)
            yield from _of_noun_phrase(noun, before)
        elif word in ("is", "are"):
            subject.verb = True
        elif word in _SIZES and subject.verb and subject.nouns and (words[at + 1 : at + 2] or ["."])[0] not in BY_WORD:
            yield from (Claim("size", noun, word) for noun in subject.nouns)
        else:
            for phrase, place in _POSITIONS:
                if tuple(words[at : at + len(phrase)]) == phrase and subject.nouns:
                    shared = subject.verb or (" " not in place and place != "center")
                    yield from (Claim("position", noun, place) for noun in subject.nouns[0 if shared else -1 :])
                    subject.placed = True
    joined = " ".join(words)
    yield from (Claim("background", "", ground.name) for ground in BACKGROUNDS if ground.name in joined)


def _of_noun_phrase(noun: str, before: list[str]) -> Iterator[Claim]:
    for word in before:
        if word in _COUNTS and not any(other in BY_WORD for other in before[before.index(word) :]):
            yield Claim("count", noun, str(_COUNTS[word]))
    if before and before[-1] in _SIZES:
        yield Claim("size", noun, before[-1])
