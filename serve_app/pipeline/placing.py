"""Where what joins a caption is put: in its first sentence, in a list of it, or in a sentence of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.pipeline.composition import Also, Composition, Fact
from serve_app.pipeline.language import comparing, lexicon
from serve_app.pipeline.language.grammar import CLOTHING, HAVE, MOTION, TIMES
from serve_app.pipeline.language.reading import Clause, Piece, Reading
from serve_app.pipeline.language.words import preposition_length
from serve_app.pipeline.language.writing import Word
from serve_app.pipeline.rendering import LONGEST_SENTENCE, Rendering

MAX_FACTS = 2
"""Facts of one thing in a sentence of its own."""
MAX_LISTED = 5
"""Most objects of one list."""


@dataclass(frozen=True, slots=True)
class Insert:
    """A piece of another text with its words as they may join the caption."""

    piece: Piece
    reading: Reading
    words: tuple[Word, ...]

    @property
    def first(self) -> str:
        return self.words[0].text.lower()


class Placing:
    """Puts pieces of other texts into a composition."""

    def __init__(self, caption: Composition) -> None:
        self.caption = caption
        self.rendering = Rendering(caption)

    def to_main(self, clause: Clause, insert: Insert) -> bool:
        """Whether the piece found a place in the first sentence, or in one of its own."""
        subject = self.caption.meant(clause)[0]
        kept = [number for number in clause.pieces if self.caption.piece_kept(number)]
        pieces = [self.caption.reading.pieces[number] for number in kept]
        if self._adds(kept, subject, insert):
            return True
        length = len(next(self.rendering.sentences())) + len(insert.words)
        if length > LONGEST_SENTENCE or len(clause.subjects) > 1 or len(self.caption.reading.clauses) > 1:
            return self.to_fact(subject, insert)
        if pieces and _is_dress(insert.reading, insert.piece):
            if self.caption.behind or any(_is_dress(self.caption.reading, each) for each in pieces):
                return self.to_fact(subject, insert)
            self.caption.behind.append(insert.words)
            return True
        if insert.piece.kind == "place":
            return self._to_place(pieces, subject, insert)
        if insert.piece.kind in ("with", "verb"):
            return self._to_end(clause, pieces, subject, insert)
        return self.to_fact(subject, insert)

    def _to_end(self, clause: Clause, pieces: Sequence[Piece], subject: int, insert: Insert) -> bool:
        """What the subject has or does goes to the end if nothing of the kind stands there: ", holding a cup"."""
        has = any("with" in self.caption.reading.said_of(each.span) for each in pieces)
        if insert.piece.kind == "verb" and not pieces:
            self.caption.appended.append(insert.words)
        elif self.caption.appended or has or (insert.piece.kind == "verb" and clause.verb):
            return self.to_fact(subject, insert)
        elif insert.piece.kind == "with":
            self.caption.appended.append(insert.words)
        elif len(insert.words) < 2:
            return False
        else:
            self.caption.appended.append((Word(","), *insert.words))
        return True

    def _to_place(self, pieces: Sequence[Piece], subject: int, insert: Insert) -> bool:
        """A place goes to the end of the first sentence if it can't be taken for a place of what stands there."""
        reading = self.caption.reading
        used = {_preposition(reading.said_of(each.span)) for each in pieces}
        used |= {_preposition([word.text for word in words]) for words in self.caption.appended}
        if _preposition([word.text for word in insert.words]) in used:
            return False  # "on a tree stump", "on a log"
        crowded = bool(self.caption.appended) or any(each.kind == "with" for each in pieces[1:])
        for last in pieces[-1:]:
            crowded = crowded or reading.words[last.span[0]] in MOTION
            if last.kind == "place" and last.objects:
                here = insert.reading.things[insert.piece.objects[-1]].head
                there = reading.things[last.objects[-1]].head
                crowded = crowded or not comparing.is_somewhere(here) or comparing.is_somewhere(there)
        if crowded:
            return self.to_fact(subject, insert)
        self.caption.appended.append(insert.words)
        return True

    def _adds(self, kept: Sequence[int], subject: int, insert: Insert) -> bool:
        """Whether the piece's objects joined a list of the caption: "with a table", "wearing a hat"."""
        reading, piece = self.caption.reading, insert.piece
        leads = any(set(each.subjects) & set(piece.objects) for each in insert.reading.pieces)
        begins = insert.reading.things[piece.objects[0]].span[0] - piece.span[0] if piece.objects else 0
        if leads or not 0 < begins < len(insert.words):
            return False
        for number in kept:
            own = reading.pieces[number]
            if own.subjects == (subject,) and self._is_alike(own, insert) and self._is_open(number, kept):
                self.caption.listed.setdefault(number, []).append(insert.words[begins:])
                return True
        return False

    def _is_alike(self, own: Piece, insert: Insert) -> bool:
        """Whether the objects of both pieces can stand in one list."""
        if own.kind == "with":
            return insert.piece.kind == "with" and insert.first == "with"
        verb = lexicon.verb_of(insert.first)
        same = own.kind == insert.piece.kind == "verb" and verb == lexicon.verb_of(
            self.caption.reading.words[own.span[0]]
        )
        return same and verb in lexicon.ADDING

    def _is_open(self, number: int, kept: Sequence[int]) -> bool:
        """Whether a piece ends with a list that may go on: nothing is said of its objects, and it is the only one."""
        reading = self.caption.reading
        own = reading.pieces[number]
        hangs = any(set(each.subjects) & set(own.objects) for each in reading.pieces)
        twice = own.kind == "with" and sum(reading.pieces[each].kind == "with" for each in kept) > 1
        several = len(own.objects) + len(self.caption.listed.get(number, ()))
        return 0 < several < MAX_LISTED and bool(own.objects) and not (hangs or twice or own.leaning)

    def to_fact(self, number: int, insert: Insert) -> bool:
        """A sentence of its own about a thing: "The dog is on a leash."; when something is, is none."""
        piece, words = insert.piece, insert.words
        if piece.kind == "place" and words[-1].text in TIMES:
            return False
        if len(words) < 2 and piece.kind != "adjective":
            return False
        if piece.kind == "with" and insert.first == "with" and self._is_there(number, insert):
            self.caption.things.append(Also(self._are_several(insert), words[1:]))
            return True
        fact = self._fact(number, insert)
        if fact is None:
            return False
        facts = self.caption.facts.setdefault(number, [])
        if sum(each.form == fact.form for each in facts) >= MAX_FACTS:
            return False
        facts.append(fact)
        return True

    def _fact(self, number: int, insert: Insert) -> Fact | None:
        """What is said of a thing behind "is", "has", or a verb of its own; None if the verb does not agree."""
        words, first = insert.words, insert.first
        if insert.piece.kind == "with" and first == "with":
            return Fact("have", words[1:])
        if insert.piece.kind != "finite":
            return Fact("be", words)
        if first in HAVE:
            return Fact("have", words[1:])
        if lexicon.verb_of(first) in lexicon.POSTURES:
            return Fact("be", (Word(lexicon.participle_of(first), words[0].mark), *words[1:]))
        agrees = lexicon.is_third_person(first) != self.caption.reading.things[number].plural
        return Fact("do", words) if agrees else None

    def _is_there(self, number: int, insert: Insert) -> bool:
        """Whether something is there rather than had: in a room, or at a place of its own ("in the background")."""
        placed = any(set(each.subjects) & set(insert.piece.objects) for each in insert.reading.pieces)
        return placed or comparing.is_somewhere(self.caption.reading.things[number].head)

    @staticmethod
    def _are_several(insert: Insert) -> bool:
        """Whether the first object of which the words speak takes "are"."""
        said = {word.text.lower() for word in insert.words}
        things = (insert.reading.things[number] for number in insert.piece.objects)
        return next((thing.plural for thing in things if insert.reading.words[thing.noun[1] - 1] in said), False)


def _preposition(words: Sequence[str]) -> tuple[str, ...]:
    """What a place begins with: "in", "in front of"."""
    return tuple(words[: max(1, preposition_length(words))])


def _is_dress(reading: Reading, piece: Piece) -> bool:
    """Whether a piece says what somebody wears."""
    if not piece.objects:
        return False
    worn = any(reading.words[reading.things[number].noun[1] - 1] in CLOTHING for number in piece.objects)
    first = reading.words[piece.span[0]]
    return worn and (first in ("in", "with") or lexicon.verb_of(first) in ("wear", "dress"))
