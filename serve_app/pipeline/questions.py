"""What can be asked beyond a caption's statements, and the sentence that an answer makes.

Pure text: a reading goes in, questions come out, the most telling first. The forms stand in
`language/data/questions.toml`. Captions enriched by questions: ChatCaptioner (Zhu et al. 2023,
https://arxiv.org/abs/2303.06594).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from serve_app.pipeline.language.grammar import (
    CLOTHING,
    DETERMINERS,
    MASS,
    MEDIA,
    NUMBERS,
    POSSESSIVES,
    PREPOSITIONS,
    VAGUE,
    data,
)
from serve_app.pipeline.language.kinds import WHERE, concept, kind_of_adjective, kinds_of
from serve_app.pipeline.language.lexicon import is_plural, parts_of_speech
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.language.reading import Reading
from serve_app.pipeline.language.statements import count_of

LONGEST_ANSWER = 12
"""Words; longer ones are no answers."""
UNCOUNTED = frozenset(("some", "several"))
"""Words before a noun that a number may take the place of."""
_SMALL_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {str(number): word for number, word in enumerate(_SMALL_NUMBERS, start=2)}
_BINDING = PREPOSITIONS | {"of"}
_PLACES = frozenset(("outside", "inside", "outdoors", "indoors", "upstairs", "downstairs"))
_ANYBODY = {"anybody": "somebody", "anyone": "someone", "anything": "something", "any": "some"}
_STATED = re.compile(
    r"(?:(?P<there>there) (?P<are>is|are) (?P<what>.+)|(?P<subject>the .+?) (?P<be>is|are) (?P<said>.+))$"
)
_RELATIVE = frozenset(("who", "that", "which"))
_YES_NO = re.compile(r"(is|are) (there )?(.+?)\?*$")


@dataclass(frozen=True, slots=True)
class Question:
    """`name` is what it is asked of, empty for the scene; `takes` and `say` are those of its form."""

    text: str
    name: str = ""
    plural: bool = False
    takes: str = ""
    say: str = ""

    def statement(self, answer: str) -> str | None:
        """The sentence that an answer makes; None for one that says nothing or is of another kind than was asked."""
        words = answer.lower().strip(" .").split()
        if not self.say:
            return _declared(self.text, answer)
        if not words or len(words) > LONGEST_ANSWER or words[0] in _nothing() or not _fits(self.takes, words):
            return None
        if self.takes == "thing":
            items = _items(words)
            if self.name:  # several things that somebody wears would be told one after the other
                items = [item for item in items[:1] if not self.plural or _is_several(item.split())]
            if not items:
                return None
            said, several = " and ".join(items), len(items) > 1 or _is_several(items[0].split())
        elif self.takes == "number" and words[0] in _DIGITS:
            said, several = _DIGITS[words[0]], True
        else:
            said, several = " ".join(_articled(words) if self.takes in ("place", "action") else words), False
        article = "" if self.plural else "an" if said[0] in "aeiou" else "a"
        several = self.plural if self.name else several
        text = self.say.format(a=article, be="are" if several else "is", name=self.name, answer=said)
        return " ".join(text.split())


def asked_back(statement: str) -> str | None:
    """The question to which "yes" confirms a statement; None if it is not of the form "there is …" or "the … is …".

    None for what is said of several things at once, too: it would be asked in every order in which variants list them.
    """
    stated = _STATED.match(statement)
    if stated is None or _RELATIVE & set(statement.split()) or " and " in (stated["subject"] or ""):
        return None
    if stated["there"]:
        return f"{stated['are']} there {stated['what']}?"
    return f"{stated['be']} {stated['subject']} {stated['said']}?"


def yes(answer: str, probability: float) -> float | None:
    """The probability of "yes" by the answer to a question that has two; None for other answers."""
    word = answer.lower().strip(" .")
    return {"yes": probability, "no": 1 - probability}.get(word)


def questions_about(reading: Reading) -> list[Question]:
    """What a caption leaves open: of its things in turn, each kind of question before the next, then of the scene."""
    ranked: list[tuple[int, int, Question]] = []
    for rank, form in enumerate(_forms()["thing"]):
        for place, number in enumerate(_things(reading)):
            wanted = _is_of(form["of"], reading, number) and not _is_of(form.get("but", ""), reading, number)
            if wanted and form["lacks"] not in _known(reading, number):
                ranked.append((rank + place, place, _about(reading, number, form)))
    scene = [_of_scene(form) for form in _forms()["scene"] if form["lacks"] not in _known_of_scene(reading)]
    return [*(question for _, _, question in sorted(ranked, key=lambda each: each[:2])), *scene]


def _things(reading: Reading) -> list[int]:
    """The things that a caption says to be there, not what it only names a place by; of several of one name none, since
    a question would mean any."""
    heads = [thing.head for number, thing in enumerate(reading.things) if not _is_definite(reading, number)]
    grounds = {number for piece in reading.pieces if piece.kind == "place" for number in piece.objects}
    return [
        number
        for number, thing in enumerate(reading.things)
        if not thing.pronoun
        and number not in grounds
        and thing.head not in MEDIA | WHERE | VAGUE
        and heads.count(thing.head) == 1
        and not _is_definite(reading, number)
    ]


def _is_definite(reading: Reading, number: int) -> bool:
    """Whether it is spoken of as something that was named before: "the dog", "it"."""
    thing = reading.things[number]
    if thing.pronoun:
        return True
    earlier = any(other.head == thing.head and other.span[0] < thing.span[0] for other in reading.things)
    return earlier and reading.words[thing.span[0]] == "the"


def _mentions(reading: Reading, number: int) -> list[int]:
    """The thing, and where the caption speaks of it again: "A dog and … The dog is …"."""
    head = reading.things[number].head
    again = [other for other, thing in enumerate(reading.things) if thing.head == head and _is_definite(reading, other)]
    return [number, *again]


def _is_of(kinds: str, reading: Reading, number: int) -> bool:
    thing = reading.things[number]
    if kinds == "several":
        return thing.plural
    return kinds == "any" or bool(set(kinds.split()) & ({thing.head} | kinds_of(thing.head)))


def _known(reading: Reading, number: int) -> set[str]:
    """What is said of a thing already, in the words of `lacks`."""
    return set().union(*(_said_of(reading, each) for each in _mentions(reading, number)))


def _said_of(reading: Reading, number: int) -> set[str]:
    known: set[str] = set()
    thing, last = reading.things[number], reading.words[reading.things[number].noun[1] - 1]
    if not set(reading.said_of(thing.quantity)) <= UNCOUNTED or last in CLOTHING | MASS:
        known.add("count")
    if last in CLOTHING | MASS:
        known.add("size")
    for span in thing.attributes:
        known |= {kind for word in reading.said_of(span) if (kind := kind_of_adjective(word)) is not None}
    if count_of(reading, number) is not None:
        known.add("count")
    for piece in reading.pieces:
        if number not in piece.subjects:
            continue
        words = reading.said_of(piece.span)
        if piece.kind == "place":
            known.add("place")
        elif piece.kind in ("verb", "finite"):
            known.add("action")
            if {"wearing", "wears", "wear"} & set(words):
                known.add("clothing")
        known |= {kind for word in words if piece.kind == "adjective" and (kind := kind_of_adjective(word)) is not None}
        if set(map(concept, words)) & CLOTHING:
            known.add("clothing")
    return known


def _known_of_scene(reading: Reading) -> set[str]:
    known: set[str] = set()
    for piece in reading.pieces:
        places = {reading.things[each].head for each in piece.objects} - WHERE
        if piece.kind == "place" and places and not places & {reading.things[each].head for each in piece.subjects}:
            known.add("background")
    if "background" in reading.content:
        known.add("background")
    return known


def _about(reading: Reading, number: int, form: dict[str, Any]) -> Question:
    thing = reading.things[number]
    name = " ".join(reading.name(number))
    be = "are" if thing.plural else "is"
    return Question(form["ask"].format(name=name, be=be), name, thing.plural, form["takes"], form["say"])


def _of_scene(form: dict[str, Any]) -> Question:
    return Question(form["ask"], takes=form["takes"], say=form["say"])


def _fits(takes: str, words: list[str]) -> bool:
    """Whether an answer is of the kind that was asked for."""
    match takes:
        case "number":
            return len(words) == 1 and (words[0] in NUMBERS or words[0].isdigit()) and words[0] not in ("0", "1", "one")
        case "place":
            return (words[0] in PREPOSITIONS and len(words) > 1) or words[0] in _PLACES
        case "action":
            return words[0].endswith("ing")
        case "thing":
            return any(word.isalpha() for word in words)
    kinds = {kind_of_adjective(word) for word in words if word != "and"}
    return kinds == {takes}


def _items(words: list[str]) -> list[str]:
    """The noun phrases of a list, each with its article; none if one of them only describes ("black")."""
    parts = [part.split() for part in re.split(r",| and ", " ".join(words)) if part.strip()]
    if any(all(kind_of_adjective(word) is not None for word in part) for part in parts):
        return []
    return [" ".join(_phrase(part)) for part in parts]


def _is_several(phrase: list[str]) -> bool:
    number = phrase[0]
    return (number in NUMBERS - {"one"}) or (number.isdigit() and number != "1") or is_plural(phrase[-1])


def _phrase(words: list[str]) -> list[str]:
    """A noun phrase with the article that it lacks."""
    first, last = words[0], words[-1]
    articles = _forms()["articles"]
    if first in DETERMINERS | POSSESSIVES | NUMBERS or first.isdigit():
        return words
    if last in articles["the"].split():
        return ["the", *words]
    if is_plural(last) or last in MASS or last in articles["none"].split() or "NOUN" not in parts_of_speech(last):
        return words
    return ["an" if first[0] in "aeiou" else "a", *words]


def _articled(words: list[str]) -> list[str]:
    """A place or what is done, with the articles that answers leave out: "on beach" → "on a beach"."""
    found: list[str] = []
    at = 0
    while at < len(words):
        binds = words[at] in _BINDING or (at == 0 and words[at].endswith("ing"))
        found.append(words[at])
        at += 1
        end = next((n for n in range(at, len(words)) if words[n] in _BINDING or words[n] == "and"), len(words))
        if binds and end > at:
            found += _phrase(words[at:end])
            at = end
    return found


def _declared(question: str, answer: str) -> str | None:
    """What "yes" to a question says: "is anybody wearing a helmet?" → "somebody is wearing a helmet"."""
    asked = _YES_NO.match(question.lower().strip())
    if asked is None or answer.lower().strip(" .") != "yes":
        return None
    be, there, rest = asked.groups()
    words = [_ANYBODY.get(word, word) for word in rest.split()]
    if "or" in words or "," in rest:
        return None
    if there:
        return f"there {be} {' '.join(words)}"
    return next((f"{head} {be} {tail}" for head, tail in _splits(words)), None)


def _splits(words: list[str]) -> Iterator[tuple[str, str]]:
    """A subject and what is asked of it: the longest beginning that reads as one thing and nothing else."""
    for end in range(len(words) - 1, 0, -1):
        head = " ".join(words[:end])
        reading = read(head)
        alone = words[0] in _ANYBODY.values() and end == 1
        whole = len(reading.things) == 1 and not reading.pieces and reading.things[0].span == (0, len(reading.tokens))
        named = kind_of_adjective(words[end - 1]) is None and words[end] not in ("and", "of")
        if alone or (whole and named):
            yield head, " ".join(words[end:])


@cache
def _forms() -> dict[str, Any]:
    return data("questions")


@cache
def _nothing() -> frozenset[str]:
    return frozenset(_forms()["nothing"]["words"].split())
