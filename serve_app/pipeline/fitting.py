"""A caption within a length: whole statements are left out, the least supported and least telling first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from serve_app.deadline import NEVER
from serve_app.pipeline.composition import Composition
from serve_app.pipeline.language import comparing
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.language.reading import Reading, Statement, dependents, places_of
from serve_app.pipeline.language.writing import Word
from serve_app.pipeline.rendering import Rendering
from serve_app.pipeline.scores import Candidate, Scores, Support
from serve_app.types import Pixels, Source

AT_A_TIME = 16
"""Of so many units that can be left out one goes at a time."""
MAX_TRIES = 32
"""Statements that are tried in the space that is left."""


class Fitting:
    """Shortens a composition."""

    def __init__(self, caption: Composition) -> None:
        self.caption = caption
        self.rendering = Rendering(caption)
        self._leaving: dict[int, set[int]] = {}

    def fit(self, fits: Callable[[str], bool]) -> int:
        """Leaves out what is least supported and least telling until the text fits; returns how many statements went.

        A text that can't be shortened further stays as it is. Of very long texts several go at a time."""
        text, before = self.rendering.render()
        after, given = before, set(self.caption.dropped)
        while not fits(text):
            units = sorted(self._units(), key=lambda unit: unit[0])
            if not units:
                break
            for _, leave_out in units[: max(1, len(units) // AT_A_TIME)]:
                leave_out()
            text, after = self.rendering.render()
        if fits(text) and self._take_back(given, fits):
            after = self.rendering.render()[1]
        return len({each.mark.statement for each in before}) - len({each.mark.statement for each in after})

    def _take_back(self, given: set[int], fits: Callable[[str], bool]) -> bool:
        """Takes back statements of the first text that fit after all, the most telling first: what went with
        another, or before a longer one. Says whether any did; `given` are those that were dropped before."""
        found = False
        gone = sorted(self.caption.dropped - given, key=self._worth_of, reverse=True)
        for number in gone[:MAX_TRIES]:
            dropped = self.caption.dropped
            if number in dependents(self.caption.reading, dropped - {number}):
                continue
            self.caption.dropped = dropped - {number}
            if fits(self.rendering.text):
                found = True
            else:
                self.caption.dropped = dropped
        return found

    def _worth_of(self, number: int) -> float:
        statement = self.caption.reading.statements[number]
        told = statement.words if statement.kind == "thing" else comparing.telling(statement.claims)
        return self.caption.scores.of(statement) * (len(told) + (statement.kind == "thing"))

    def _units(self) -> Iterator[tuple[float, Callable[[], object]]]:
        """What can be left out, with how much it is worth."""
        for thing in self.caption.things:
            yield _worth(thing.words), partial(self.caption.things.remove, thing)
        for found in (self.caption.alone, self.caption.behind, self.caption.appended):
            for words in found:
                yield _worth(words), partial(found.remove, words)
        for lists in (self.caption.described, self.caption.listed):
            for several in lists.values():
                for words in several:
                    yield _worth(words), partial(several.remove, words)
        for facts in self.caption.facts.values():
            for fact in facts:
                yield _worth(fact.words), partial(facts.remove, fact)
        yield from self._units_of_the_first_text()

    def _units_of_the_first_text(self) -> Iterator[tuple[float, Callable[[], object]]]:
        """Its statements with what depends on them, as long as something is left to speak of."""
        for number, statement in enumerate(self.caption.reading.statements):
            leaving = self._dependents(number) - self.caption.dropped
            if number in self.caption.dropped or not self._holding() - leaving:
                continue
            worth = self._worth_of(number) + self.caption.scores.of(statement) * (len(leaving) - 1)
            yield worth, partial(self._drop, number)

    def _drop(self, number: int) -> None:
        leaving = self._dependents(number)
        if self._holding() - leaving:
            self.caption.dropped |= leaving

    def _holding(self) -> set[int]:
        """The statements of which one has to stay: things, or any if none is a subject."""
        kinds = {"thing"} if any(clause.subjects for clause in self.caption.reading.clauses) else {"piece", "whole"}
        statements = enumerate(self.caption.reading.statements)
        return {number for number, each in statements if each.kind in kinds} - self.caption.dropped

    def _dependents(self, number: int) -> set[int]:
        if number not in self._leaving:
            self._leaving[number] = dependents(self.caption.reading, {number})
        return self._leaving[number]


def _worth(words: Sequence[Word]) -> float:
    """Support of what the words stand for, times how much they tell."""
    marks = {id(word.mark): word.mark for word in words if word.mark is not None}
    return sum(mark.score * len(comparing.telling(mark.statement.claims)) for mark in marks.values())


class _Unweighed(Scores):
    """Scores if nothing was weighed: what stands later in the text counts for less."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(None, Pixels("", 0, 0, b""), NEVER, Support.of())
        places = sorted({statement.spans[0][0] for statement in reading.statements})
        self._ranks = {place: rank for rank, place in enumerate(places)}

    def of(self, statement: Statement) -> float:
        return 0.5 ** self._ranks[statement.spans[0][0]]


@dataclass(frozen=True, slots=True)
class Kept:
    """A part of a shortened text, and where it stood in the whole one; in characters."""

    start: int
    end: int
    origin: int


def shortened(text: str, fits: Callable[[str], bool]) -> tuple[str, list[Kept], int]:
    """A text without so many of its last statements that it fits, what it keeps, and how many went."""
    if fits(text):
        return text, [], 0
    reading = read(text)
    composition = Composition(Candidate(reading, Source("variant")), _Unweighed(reading))
    gone = Fitting(composition).fit(fits)
    if not gone:
        return text, [], 0
    origins: dict[str, int] = {}
    for start, _, number in places_of(text, reading):
        origins.setdefault(reading.statements[number].text, start)
    found, stretches = Rendering(composition).render()
    return found, [Kept(each.start, each.end, origins.get(each.mark.statement.text, 0)) for each in stretches], gone
