"""A text as statements: what is there, what it is like, where it is, what it does.

A reading keeps every token of its text. Each token belongs to one statement, so that a caption made of the tokens can
say of every word what was weighed for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from serve_app.pipeline.language.grammar import MEDIA
from serve_app.pipeline.language.kinds import content

Span = tuple[int, int]
"""Tokens from the first up to, but without, the second."""
PieceKind = Literal["place", "with", "verb", "finite", "infinitive", "adjective", "noun", "rest"]
StatementKind = Literal["thing", "count", "attribute", "piece", "whole"]


@dataclass(frozen=True, slots=True)
class Thing:
    """A noun phrase: `quantity` "a group of" + `attributes` "young", "tall" + `noun` "men" (+ "of …", `complement`).

    All spans are of the reading's tokens. A pronoun is a thing too.
    """

    span: Span
    quantity: Span
    attributes: tuple[Span, ...]
    noun: Span
    complement: int | None
    head: str
    """The concept of its noun."""
    plural: bool
    pronoun: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What is said of things: "riding a horse", "on a beach", "with a red roof". `lead` tokens before it bind it."""

    kind: PieceKind
    span: Span
    subjects: tuple[int, ...]
    objects: tuple[int, ...]
    lead: int
    """Where the words begin that bind it: "is", "that is", "and"; its own start if there are none."""
    leaning: bool = False
    """Whether it speaks of something outside of it ("in his hand") and goes with the piece before it."""


@dataclass(frozen=True, slots=True)
class Clause:
    """Subjects with what is said of them. `verb` says whether a verb joins them, as a sentence has it."""

    span: Span
    subjects: tuple[int, ...]
    pieces: tuple[int, ...]
    verb: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """Something that can be true or false by itself, as a short sentence.

    `about` is the place of the thing that it speaks of, `claims` the concepts that it says of it, its name left out.
    """

    kind: StatementKind
    text: str
    about: tuple[int, ...]
    subject: frozenset[str]
    claims: frozenset[str]
    spans: tuple[Span, ...]
    piece: int | None = None

    @property
    def words(self) -> frozenset[str]:
        return self.subject | self.claims


@dataclass(frozen=True, eq=False)
class Reading:
    """A text as things, pieces and statements; `tokens` as written, `words` in lower case."""

    text: str
    tokens: tuple[str, ...]
    words: tuple[str, ...]
    things: tuple[Thing, ...] = ()
    pieces: tuple[Piece, ...] = ()
    clauses: tuple[Clause, ...] = ()
    statements: tuple[Statement, ...] = field(default=())

    @cached_property
    def owners(self) -> tuple[int | None, ...]:
        """For each token the statement that it belongs to; None for marks and connecting words."""
        owners: list[int | None] = [None] * len(self.tokens)
        # A number and a describing word stand within what they belong to.
        inner = ("count", "attribute")
        for number, statement in sorted(enumerate(self.statements), key=lambda each: each[1].kind in inner):
            for start, end in statement.spans:
                owners[start:end] = [number] * (end - start)
        return tuple(owners)

    @cached_property
    def content(self) -> frozenset[str]:
        return content(self.words)

    @cached_property
    def of_piece(self) -> dict[int, list[int]]:
        """The statements of each piece: one, or one for each object of its list."""
        by_piece: dict[int, list[int]] = {}
        for number, statement in enumerate(self.statements):
            if statement.piece is not None:
                by_piece.setdefault(statement.piece, []).append(number)
        return by_piece

    @cached_property
    def existence(self) -> dict[int, int]:
        """The statement that a thing is there, of each thing that has one."""
        return {each.about[0]: number for number, each in enumerate(self.statements) if each.kind == "thing"}

    @cached_property
    def main(self) -> int | None:
        """The thing that the text is about; of "a photo of a dog" the dog."""
        for clause in self.clauses:
            for number in clause.subjects:
                thing = self.things[number]
                if thing.head in MEDIA and thing.complement is not None:
                    return thing.complement
                return None if thing.pronoun else number
        return None

    def name(self, number: int) -> tuple[str, ...]:
        """The thing's noun in lower case: ("fire", "hydrant")."""
        start, end = self.things[number].noun
        return self.words[start:end]

    def said_of(self, span: Span) -> tuple[str, ...]:
        return self.words[span[0] : span[1]]


def places_of(text: str, reading: Reading) -> list[tuple[int, int, int]]:
    """Where the statements of a text stand in it: (first character, last and one, number of the statement)."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    for token, owner in zip(reading.tokens, reading.owners, strict=True):
        start = text.find(token, at)
        if start < 0:
            continue
        at = start + len(token)
        if owner is None:
            continue
        if runs and runs[-1][2] == owner:
            runs[-1] = (runs[-1][0], at, owner)
        else:
            runs.append((start, at, owner))
    return runs


def dependents(reading: Reading, leaving: set[int]) -> set[int]:
    """The statements, and those that speak only of things that go with them."""
    gone_too = set(leaving)
    while True:
        gone = {
            number
            for number, thing in enumerate(reading.things)
            if (owner := reading.owners[thing.noun[0]]) is not None and owner in gone_too
        }
        more = {
            number
            for number, statement in enumerate(reading.statements)
            if number not in gone_too and statement.about and set(statement.about) <= gone
        }
        if not more:
            return gone_too
        gone_too |= more
