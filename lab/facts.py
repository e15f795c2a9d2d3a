"""What a text claims of a scene: counts, sizes, colors, positions, relations and the background, true or false.

The text is read word by word, by the same rules for every strategy; the matcher has no part in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lab.backgrounds import BACKGROUNDS
from lab.captions import NUMBERS
from lab.objects import BY_WORD, COLORS
from lab.scenes import APART, Group, Scene, middle

_COUNTS = {"a": 1, "an": 1, **{word: number for number, word in enumerate(NUMBERS)}}
_SIZES = ("large", "small")
_BREAKS = frozenset((".", "while", "where", "with", "there"))
_POSITIONS = (
    *((("the", row, column), f"{row} {column}") for row in ("top", "bottom") for column in ("left", "right")),
    (("the", "center"), "center"),
    *((("at", "the", row), row) for row in ("top", "bottom")),
    *((("on", "the", column), column) for column in ("left", "right")),
    *((("the", side, "side"), side) for side in ("left", "right")),
    *(
        (("the", half, word), place)
        for half, place in (("upper", "top"), ("lower", "bottom"))
        for word in ("half", "one")
    ),
)
"""Words, and the cell or the part of a cell's name that they mean."""
_RELATIONS = (
    (("to", "the", "left", "of"), "to the left of"),
    (("to", "the", "right", "of"), "to the right of"),
    (("above",), "above"),
    (("below",), "below"),
    (("stands", "on"), "on"),
    (("stand", "on"), "on"),
)


_NOUN_PHRASE = frozenset((*BY_WORD, *COLORS))


@dataclass(frozen=True, slots=True)
class Claim:
    """`kind`: count, size, color, position, relation or background. `noun` is empty for the background.

    The value of a relation ends with the other noun: "above cat".
    """

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
        if self.kind == "color":
            return group.color == self.value
        if self.kind == "relation":
            where, _, other = self.value.rpartition(" ")
            return any(_lies(scene, group, where, each) for each in scene.groups if each.noun == other)
        return self.value == group.cell if " " in self.value or self.value == "center" else self.value in group.cell


def _lies(scene: Scene, group: Group, where: str, other: Group) -> bool:
    """As people would say it: two things may lie askew."""
    if where == "on":
        return (group.noun, other.noun) in scene.on
    (x, y), (other_x, other_y) = middle(group.boxes), middle(other.boxes)
    beyond = {
        "to the left of": other_x - x,
        "to the right of": x - other_x,
        "above": other_y - y,
        "below": y - other_y,
    }[where]
    return beyond > APART / 2


def facts_of(scene: Scene) -> set[Claim]:
    """What could be told of a scene: count, size, color and place of every group, and a background that has words."""
    ground = BACKGROUNDS[scene.background]
    found = {Claim("background", "", ground.name)} if ground.phrase else set()
    for group in scene.groups:
        values = {"count": str(group.count), "size": group.size, "position": group.cell}
        if group.color:
            values["color"] = group.color
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
        before = words[max(0, at - 3) : at]
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
        elif word in _SIZES and subject.verb and subject.nouns and _follows(words, at) not in _NOUN_PHRASE:
            yield from (Claim("size", noun, word) for noun in subject.nouns)
        else:
            for phrase, where in _RELATIONS:
                ahead = words[at + len(phrase) : at + len(phrase) + 3]
                other = next((BY_WORD[each].noun for each in ahead if each in BY_WORD), None)
                if tuple(words[at : at + len(phrase)]) == phrase and subject.nouns and other:
                    yield Claim("relation", subject.nouns[-1], f"{where} {other}")
                    subject.placed = True
            for phrase, place in _POSITIONS:
                if phrase[0] in ("at", "on") and words[at + 3 : at + 4] in (["side"], ["left"], ["right"]):
                    continue
                if tuple(words[at : at + len(phrase)]) == phrase and subject.nouns:
                    shared = subject.verb or (" " not in place and place != "center")
                    yield from (Claim("position", noun, place) for noun in subject.nouns[0 if shared else -1 :])
                    subject.placed = True
    joined = " ".join(words)
    yield from (Claim("background", "", ground.name) for ground in BACKGROUNDS if ground.name in joined)


def _follows(words: list[str], at: int) -> str:
    return words[at + 1] if at + 1 < len(words) else "."


def _of_noun_phrase(noun: str, before: list[str]) -> Iterator[Claim]:
    words = list(before)
    for kind, known in (("color", COLORS), ("size", _SIZES)):
        if words and words[-1] in known:
            yield Claim(kind, noun, words.pop())
    if words and words[-1] in _COUNTS:
        yield Claim("count", noun, str(_COUNTS[words[-1]]))
