"""A caption in the making, as data: the text that begins it, what was taken out of it, and what joined.

`rendering` writes it, `settling` takes out what is contradicted, `joining` lets statements of other texts in, `fitting`
keeps a length. All of them work on readings; nothing here reads a text.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

from serve_app.pipeline.language.comparing import aligned, telling
from serve_app.pipeline.language.grammar import MEDIA
from serve_app.pipeline.language.kinds import WHERE, content
from serve_app.pipeline.language.reading import Clause, Reading, Statement, dependents
from serve_app.pipeline.language.writing import Mark, Word
from serve_app.pipeline.scores import Candidate, Scores
from serve_app.types import Contested

Form = Literal["be", "have", "do"]


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence of its own says of a thing: that it is something, has something, or does something."""

    form: Form
    words: tuple[Word, ...]


Words = tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Also:
    """A thing that is "also" there; `several` says whether "are" stands before it."""

    several: bool
    words: tuple[Word, ...]
    head: str = ""
    """The concept of its noun, if it is one thing."""


class Composition:
    """The caption so far. Things and statements are named by their places in the reading of the first text."""

    def __init__(self, base: Candidate, scores: Scores) -> None:
        self.base = base
        """The text that begins the caption."""
        self.scores = scores
        self.dropped: set[int] = set()
        """Statements of the first text that are left out."""
        self.hidden: set[int] = set()
        """Tokens of the first text that are left out by themselves, such as a number that is contested."""
        self.counted: dict[int, Word] = {}
        """How many there are of a thing, if another text says so."""
        self.renamed: dict[int, Words] = {}
        """Better names of things."""
        self.described: dict[int, list[Words]] = {}
        """Describing words that joined a thing."""
        self.listed: dict[int, list[Words]] = {}
        """Objects that joined the list of a piece."""
        self.behind: list[Words] = []
        """What stands right behind the main subject."""
        self.appended: list[Words] = []
        """What stands at the end of the first sentence."""
        self.facts: dict[int, list[Fact]] = {}
        """What sentences of their own say of things."""
        self.things: list[Also] = []
        """Things that are "also" there."""
        self.alone: list[Words] = []
        """Sentences that stand by themselves."""
        self.said: set[str] = set()
        """Concepts that the caption says."""
        self.said_of: dict[int, frozenset[str]] = {}
        """Those that it says of a thing."""
        self.heads: set[str] = set()
        """Concepts of the things that it names."""
        self.refused: set[str] = set()
        """Statements that lost against others; they don't join again, whoever says them."""
        self.contested: list[Contested] = []
        self._marks: dict[tuple[Reading, int], Mark] = {}
        self._pairings: dict[Reading, dict[int, int]] = {}

    def copy(self) -> Composition:
        """One that can be grown without changing this one."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, set | list):
                setattr(other, name, value.copy())
            elif isinstance(value, dict):
                copied = {key: each.copy() if isinstance(each, list) else each for key, each in value.items()}
                setattr(other, name, copied)
        return other

    def contest(self, loser: Statement, winner: Statement) -> None:
        """Notes what is left out because it contradicts something; it joins no more, whoever says it."""
        if loser.text == winner.text:
            return
        self.refused.add(loser.text)
        if all((each.text, each.against) != (loser.text, winner.text) for each in self.contested):
            of = self.scores.of
            self.contested.append(Contested(loser.text, of(loser), winner.text, of(winner)))

    def told_of(self, number: int) -> list[tuple[tuple[str, ...], Statement]]:
        """What the caption says of a thing of the first text: words, and the statement that they stand for."""
        reading = self.reading
        found = [
            (reading.said_of(span), reading.statements[owner])
            for span in reading.things[number].attributes
            if (owner := reading.owners[span[0]]) is not None and owner not in self.dropped
        ]
        found += [
            (reading.said_of(statement.spans[0]), statement)
            for place, statement in enumerate(reading.statements)
            if statement.kind == "piece" and number in statement.about and place not in self.dropped
        ]
        joined = [*self.described.get(number, ()), *(fact.words for fact in self.facts.get(number, ()))]
        if (main := self.main_clause()) is not None and number in self.meant(main):
            joined += [*self.behind, *self.appended]
        for words in joined:
            mark = next((word.mark for word in words if word.mark is not None), None)
            if mark is not None:
                found.append((tuple(word.text.lower() for word in words), mark.statement))
        return found

    def drop_repeated(self) -> None:
        """Leaves out what the first text says twice: a place, an object of a list."""
        said: set[str] = set()
        for number, statement in enumerate(self.reading.statements):
            if number in self.dropped or statement.kind in ("thing", "attribute", "count"):
                continue
            told = telling(content(word for span in statement.spans for word in self.reading.said_of(span)))
            repeated = bool(told) and (told <= said - WHERE or self._is_named_better(number, told))
            if repeated and statement.piece is not None and self._is_free(statement.piece):
                self.dropped |= dependents(self.reading, {number})
            said |= told

    def _is_named_better(self, number: int, told: frozenset[str]) -> bool:
        """Whether the list that a statement belongs to says more of the same: "a dock and wooden dock"."""
        statements = self.reading.statements
        return any(
            told < telling(content(word for span in other.spans for word in self.reading.said_of(span)))
            for place, other in enumerate(statements)
            if place > number
            and other.piece == statements[number].piece is not None
            and other.claims == statements[number].claims
        )

    def _is_free(self, piece: int) -> bool:
        """Whether a piece can go without anything else: it is no verb, and not the only one of its clause."""
        clause = next(each for each in self.reading.clauses if piece in each.pieces)
        return self.reading.pieces[piece].kind in ("place", "with") and len(clause.pieces) > 1

    @property
    def names(self) -> frozenset[str]:
        """The concepts of the things that the caption names, in the first text and beyond it."""
        renamed = {self.reading.things[number].head for number in self.renamed}
        better = content(words[-1].text.lower() for words in self.renamed.values())
        return better | {head.split()[-1] for head in self.heads - renamed}

    @property
    def reading(self) -> Reading:
        return self.base.reading

    def pairing(self, reading: Reading) -> dict[int, int]:
        """Which things of another text are things of the first one."""
        if reading not in self._pairings:
            self._pairings[reading] = aligned(reading, self.reading)
        return self._pairings[reading]

    def mark(self, candidate: Candidate, number: int | None) -> Mark | None:
        """What words stand for that belong to a statement of a text; one object for each statement."""
        if number is None:
            return None
        key = (candidate.reading, number)
        if key not in self._marks:
            statement = candidate.reading.statements[number]
            self._marks[key] = Mark(statement, candidate.source, self.scores.of(statement))
        return self._marks[key]

    def keeps(self, candidate: Candidate, number: int | None) -> bool:
        """Whether words that belong to a statement are written; None is what belongs to none."""
        if number is None:
            return True
        if candidate is self.base:
            return number not in self.dropped
        statement = candidate.reading.statements[number]
        return statement.text not in self.refused and (
            statement.kind not in ("attribute", "count") or self.scores.passes(statement)
        )

    def is_written(self, number: int) -> bool:
        """Whether the caption names a thing of the first text."""
        reading = self.reading
        owner = reading.owners[reading.things[number].noun[0]]
        return owner is None or owner not in self.dropped

    def subject_kept(self, number: int) -> bool:
        owner = self.reading.existence.get(number)
        return owner is None or owner not in self.dropped

    def piece_kept(self, number: int) -> bool:
        start, end = self.reading.pieces[number].span
        owners = {
            owner
            for owner in self.reading.owners[start:end]
            if owner is not None and self.reading.statements[owner].kind not in ("attribute", "count")
        }
        return not owners or not owners <= self.dropped

    def main_clause(self) -> Clause | None:
        """The first clause that has a subject."""
        return next((clause for clause in self.reading.clauses if clause.subjects), None)

    def meant(self, clause: Clause) -> tuple[int, ...]:
        """What a clause speaks of: of "a photo of a dog" the dog."""
        reading = self.reading
        found = []
        for number in clause.subjects:
            thing = reading.things[number]
            found.append(thing.complement if thing.head in MEDIA and thing.complement is not None else number)
        return tuple(found)

    def attributes_of(self, number: int) -> list[tuple[str, ...]]:
        """The describing words of a thing, as the caption has them."""
        reading = self.reading
        found = [
            reading.said_of(span)
            for span in reading.things[number].attributes
            if reading.owners[span[0]] not in self.dropped
        ]
        return [*found, *(tuple(word.text for word in words) for words in self.described.get(number, ()))]
