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

from serve_app.pipeline.language.grammar import CLOTHING, DETERMINERS, MASS, MEDIA, NUMBERS, PREPOSITIONS, VAGUE, data
from serve_app.pipeline.language.kinds import WHERE, concept, kind_of_adjective, kinds_of
from serve_app.pipeline.language.lexicon import lemma
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.language.reading import Reading
from serve_app.pipeline.language.statements import count_of

LONGEST_ANSWER = 12
"""Words; longer ones are no answers."""
_PLACES = frozenset(("outside", "inside", "outdoors", "indoors", "upstairs", "downstairs"))
_ANYBODY = {"anybody": "somebody", "anyone": "someone", "anything": "something", "any": "some"}
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
        said = " ".join(words)
        if self.takes == "thing":
            said = _with_article(words)
        several = self.plural if self.name else words[0] in NUMBERS - {"one"} or " and " in said
        article = "" if self.plural else "an" if said[0] in "aeiou" else "a"
        text = self.say.format(a=article, be="are" if several else "is", name=self.name, answer=said)
        return " ".join(text.split())


def questions_about(reading: Reading) -> list[Question]:
    """What a caption leaves open: of the scene, then of its things in turn, each kind of question before the next."""
    ranked: list[tuple[int, int, Question]] = []
    for rank, form in enumerate(_forms()["thing"]):
        for place, number in enumerate(_things(reading)):
            wanted = _is_of(form["of"], reading, number) and not _is_of(form.get("but", ""), reading, number)
            if wanted and form["lacks"] not in _known(reading, number):
                ranked.append((rank + place, place, _about(reading, number, form)))
    scene = [_of_scene(form) for form in _forms()["scene"] if form["lacks"] not in _known_of_scene(reading)]
    return [*scene, *(question for _, _, question in sorted(ranked, key=lambda each: each[:2]))]


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
    """Whether it is spoken of as something that is known: "the dog", "it"."""
    return reading.things[number].pronoun or reading.words[reading.things[number].span[0]] == "the"


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
    for span in reading.things[number].attributes:
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


def _with_article(words: list[str]) -> str:
    """A noun phrase as a sentence has it: "beach" → "a beach"; "trees", "the sky" and "water" stand as they are."""
    first, last = words[0], words[-1]
    bare = first in DETERMINERS or last in MASS or lemma(last) != last or "and" in words
    return " ".join(words) if bare else f"{'an' if first[0] in 'aeiou' else 'a'} {' '.join(words)}"


def _declared(question: str, answer: str) -> str | None:
    """What "yes" to a question says: "is anybody wearing a helmet?" → "somebody is wearing a helmet"."""
    asked = _YES_NO.match(question.lower().strip())
    if asked is None or answer.lower().strip(" .") != "yes":
        return None
    be, there, rest = asked.groups()
    words = [_ANYBODY.get(word, word) for word in rest.split()]
    if there:
        return f"there {be} {' '.join(words)}"
    return next((f"{head} {be} {tail}" for head, tail in _splits(words)), None)


def _splits(words: list[str]) -> Iterator[tuple[str, str]]:
    """A subject and what is asked of it: the longest beginning that reads as one thing and nothing else."""
    for end in range(len(words) - 1, 0, -1):
        head = " ".join(words[:end])
        reading = read(head)
        alone = words[0] in _ANYBODY.values() and end == 1
        if alone or (
            len(reading.things) == 1 and not reading.pieces and reading.things[0].span == (0, len(reading.tokens))
        ):
            yield head, " ".join(words[end:])


@cache
def _forms() -> dict[str, Any]:
    return data("questions")


@cache
def _nothing() -> frozenset[str]:
    return frozenset(_forms()["nothing"]["words"].split())
