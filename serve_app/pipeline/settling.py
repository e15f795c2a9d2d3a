"""Where texts contradict one another: what is better supported stays, or neither if that cannot be decided."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.pipeline.composition import Composition
from serve_app.pipeline.language import comparing, lexicon
from serve_app.pipeline.language.kinds import concept, content, kinds_of
from serve_app.pipeline.language.reading import Span, Statement, Thing, dependents
from serve_app.pipeline.language.statements import count_of
from serve_app.pipeline.language.writing import Mark, Word
from serve_app.pipeline.scores import Candidate, log_odds
from serve_app.pipeline.wording import Wording

Verdict = Literal["ours", "theirs", "neither"]
AGREED = 0.5
"""Share of the variants from which on a more exact name needs no more support than any statement."""
MUCH_LESS = 1.6
"""Log-odds by which a more exact name may have less support than the one that the caption has, said as often."""


@dataclass(frozen=True, slots=True)
class _Side:
    """A statement of a text, as one side of a contradiction."""

    candidate: Candidate
    number: int
    score: float

    @property
    def statement(self) -> Statement:
        return self.candidate.reading.statements[self.number]


@dataclass(frozen=True, slots=True)
class _Rival:
    """A thing of another text that is a thing of the caption."""

    candidate: Candidate
    number: int

    @property
    def thing(self) -> Thing:
        return self.candidate.reading.things[self.number]

    def said_of(self, span: Span) -> tuple[str, ...]:
        return self.candidate.reading.said_of(span)


class Settling:
    """Settles numbers, describing words, names and places of a composition's things."""

    def __init__(self, caption: Composition) -> None:
        self.caption = caption
        self.wording = Wording(caption)

    def settle(self, others: Sequence[Candidate]) -> None:
        """Where texts contradict one another, keeps what is better supported, or neither if that cannot be decided."""
        others = [other for other in others if other is not self.caption.base]
        for number, thing in enumerate(self.caption.reading.things):
            if thing.pronoun:
                continue
            rivals = [
                _Rival(other, theirs)
                for other in others
                for theirs, ours in self.caption.pairing(other.reading).items()
                if ours == number
            ]
            self._settle_number(number, rivals)
            self._settle_attributes(number, rivals)
            self._settle_name(number, rivals)
        for number, statement in enumerate(self.caption.reading.statements):
            if statement.kind == "piece" and statement.about and number not in self.caption.dropped:
                self._settle_place(number, statement, others)

    def _settle_number(self, number: int, rivals: Sequence[_Rival]) -> None:
        reading = self.caption.reading
        counted = count_of(reading, number)
        if not reading.things[number].plural:
            return
        ours = None if counted is None else self._side(self.caption.base, counted[0])
        if counted is None or ours is None:
            self._number_group(number, rivals)
            return
        count = comparing.number_of(reading, reading.things[number])
        theirs_of = [(rival, comparing.number_of(rival.candidate.reading, rival.thing)) for rival in rivals]
        counts = Counter([count, *(theirs for _, theirs in theirs_of if theirs)])
        for rival, theirs in theirs_of:
            side = self._side_of_number(rival)
            if theirs is None or theirs == count or side is None:
                continue
            verdict = self._verdict(ours, side, counts[count] / counts[theirs])
            if verdict == "theirs":
                self._say_number(number, counted, Word(theirs, self._mark(side)))
                ours, count = side, theirs
            elif verdict == "neither":
                self.caption.hidden.update(range(*counted))
                self.caption.counted.pop(number, None)
                return

    def _number_group(self, number: int, rivals: Sequence[_Rival]) -> None:
        """Says how many if the first text only says that there are several: "a group of" → "three"."""
        start, end = self.caption.reading.things[number].quantity
        given = self.caption.reading.words[start:end]
        if not (set(given) <= {"some", "several"} or (set(given) & {"group", "bunch"} and given[-1] == "of")):
            return
        by_count: dict[str, list[_Side]] = {}
        for rival in rivals:
            count = comparing.number_of(rival.candidate.reading, rival.thing)
            side = self._side_of_number(rival)
            if count is not None and side is not None and self.caption.scores.passes(side.statement):
                by_count.setdefault(count, []).append(side)
        if len(by_count) == 1:
            ((count, sides),) = by_count.items()
            if len(sides) > 1:
                self._say_number(number, (start, end), Word(count, self._mark(sides[0])))

    def _say_number(self, number: int, instead_of: Span, word: Word) -> None:
        self.caption.hidden.update(range(*instead_of))
        self.caption.counted[number] = word

    def _side_of_number(self, rival: _Rival) -> _Side | None:
        span = count_of(rival.candidate.reading, rival.number)
        return self._side(rival.candidate, span[0]) if span is not None and rival.thing.plural else None

    def _settle_attributes(self, number: int, rivals: Sequence[_Rival]) -> None:
        """What things are like: "a red car", "a car that is blue"."""
        theirs = [each for rival in rivals for each in self._qualities(rival.candidate, rival.number)]
        for words, ours in self._qualities(self.caption.base, number):
            if ours.number in self.caption.dropped:
                continue
            for said, side in theirs:
                subset = set(words) <= set(said) or set(said) <= set(words)
                if subset or comparing.clash(words, said) is None:
                    continue
                verdict = self._verdict(ours, side)
                if verdict == "ours":
                    continue
                self.caption.dropped |= dependents(self.caption.reading, {ours.number})
                if verdict == "theirs" and (side.statement.kind == "attribute" or len(said) == 1):
                    better = tuple(Word(word, self._mark(side)) for word in said)
                    self.caption.described.setdefault(number, []).append(better)
                break

    def _qualities(self, candidate: Candidate, number: int) -> list[tuple[tuple[str, ...], _Side]]:
        """The words that say what a thing is like, before it or behind "is", each with its statement."""
        reading = candidate.reading
        sides = [(span, self._side(candidate, span[0])) for span in reading.things[number].attributes]
        attributes = [
            (reading.said_of(span), side) for span, side in sides if side and side.statement.kind == "attribute"
        ]
        for place, statement in enumerate(reading.statements):
            piece = None if statement.piece is None else reading.pieces[statement.piece]
            if piece is not None and statement.about == (number,) and (words := comparing.quality(reading, piece)):
                attributes.append((words, _Side(candidate, place, self.caption.scores.of(statement))))
        return attributes

    def _settle_name(self, number: int, rivals: Sequence[_Rival]) -> None:
        """Of several names of one thing the best supported, most exact one."""
        thing = self.caption.reading.things[number]
        ours, head = self._side(self.caption.base, thing.noun[0]), thing.head
        for rival in rivals:
            theirs = self._side(rival.candidate, rival.thing.noun[0])
            if theirs is None or ours is None or rival.thing.plural != thing.plural:
                continue
            parent = comparing.one_name(head, rival.thing.head)
            if parent is None:
                better = self._is_better(number, head, rival) and self._exacter(theirs, ours)
            else:
                verdict = self._verdict(ours, theirs)
                better = verdict == "theirs"
                if verdict == "neither":
                    name = lexicon.plural_of(parent) if thing.plural else parent
                    self.caption.renamed[number] = (Word(name, self._mark(ours)),)
                    return
            if better:
                self._rename(number, rival)
                ours, head = theirs, rival.thing.head

    def _is_better(self, number: int, head: str, rival: _Rival) -> bool:
        """Whether another text's name tells more: "skier" for a person, "dining room table" for a table."""
        if rival.thing.head == head:
            return self._longer(number, rival)
        members = [each for each in rival.candidate.reading.things if head in kinds_of(each.head)]
        if self.caption.reading.things[number].plural and len(members) > 1:
            return False  # "men and women"
        whole = self.caption.reading.things[number].complement is None and rival.thing.complement is None
        return whole and head in kinds_of(rival.thing.head) and comparing.is_of_a_top_kind(head)

    def _longer(self, number: int, rival: _Rival) -> bool:
        """Whether the other text's name has this one and more in it: "dining room table" for "table"; and none that
        says again what is there ("airplane wing" of an airplane, "frog frogs")."""
        reading = self.caption.reading
        thing = reading.things[number]
        ours, theirs = reading.name(number), rival.candidate.reading.name(rival.number)
        if written := self.caption.renamed.get(number):
            ours = tuple(word.text.lower() for word in written)
        more = content(word for word in theirs if word not in ours)
        if not more or more & reading.content or len(set(map(concept, theirs))) < len(theirs):
            return False
        described = number in self.caption.described or any(
            reading.words[end - 1].endswith("ing") for _, end in thing.attributes
        )
        return set(ours) < set(theirs) and thing.complement is None and not described

    def _exacter(self, theirs: _Side, ours: _Side) -> bool:
        """Whether a more exact name is as well supported as it has to be. Who says "man" says "person", too: what the
        matcher thinks of the names is compared, not how many say them."""
        scores = self.caption.scores
        if any(word.startswith(tuple(self._verbs())) for word in theirs.statement.subject):
            return False  # "a cook cooking"
        if not scores.passes(theirs.statement):
            return False
        if scores.agreement.features(theirs.statement)[0] >= AGREED:
            return True
        alike = scores.as_often(theirs.statement, ours.statement)
        return scores.has_matcher and log_odds(alike) > log_odds(ours.score) - MUCH_LESS

    def _verbs(self) -> list[str]:
        """What the first text says that somebody does, without an "e" at the end: "cook", "skat"."""
        reading = self.caption.reading
        doing = (piece for piece in reading.pieces if piece.kind in ("verb", "finite"))
        return [lexicon.verb_of(reading.words[piece.span[0]]).rstrip("e") for piece in doing]

    def _rename(self, number: int, rival: _Rival) -> None:
        owners = rival.candidate.reading.owners
        self.caption.renamed[number] = tuple(
            Word(self.wording.token(rival.candidate, at), self.caption.mark(rival.candidate, owners[at]))
            for at in range(*rival.thing.noun)
        )

    def _settle_place(self, number: int, statement: Statement, others: Sequence[Candidate]) -> None:
        """Places that exclude each other: "on the left side", "on the right side"."""
        reading = self.caption.reading
        words = reading.said_of(statement.spans[0])
        ours = _Side(self.caption.base, number, self.caption.scores.of(statement))
        for other in others:
            pairing = self.caption.pairing(other.reading)
            for place, theirs in enumerate(other.reading.statements):
                if theirs.kind != "piece" or {pairing.get(each) for each in theirs.about} != set(statement.about):
                    continue
                if not comparing.opposed(words, other.reading.said_of(theirs.spans[0])):
                    continue
                if self._verdict(ours, _Side(other, place, self.caption.scores.of(theirs))) != "ours":
                    self.caption.dropped |= dependents(reading, {number})
                    return

    def _side(self, candidate: Candidate, at: int) -> _Side | None:
        """The statement that a token belongs to."""
        owner = candidate.reading.owners[at]
        if owner is None:
            return None
        return _Side(candidate, owner, self.caption.scores.of(candidate.reading.statements[owner]))

    def _mark(self, side: _Side) -> Mark | None:
        return self.caption.mark(side.candidate, side.number)

    def _verdict(self, ours: _Side, theirs: _Side, times: float = 1.0) -> Verdict:
        """Which of two statements holds; `times` says how many more texts say ours. A loser never joins again."""
        difference = log_odds(ours.score) - log_odds(theirs.score) + math.log(times)
        margin = self.caption.scores.weights.margin
        if difference < -margin and self.caption.scores.passes(theirs.statement):
            self._contest(ours, theirs)
            return "theirs"
        self._contest(theirs, ours)
        if abs(difference) <= margin and self.caption.scores.passes(theirs.statement):
            self._contest(ours, theirs)
            return "neither"
        return "ours"

    def _contest(self, loser: _Side, winner: _Side) -> None:
        self.caption.contest(loser.statement, winner.statement)
