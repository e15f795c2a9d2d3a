"""A composition as words: sentences, clauses, pieces and noun phrases, each word with what was weighed for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from serve_app.pipeline.composition import Composition, Fact
from serve_app.pipeline.language.grammar import BE
from serve_app.pipeline.language.kinds import content
from serve_app.pipeline.language.reading import Clause
from serve_app.pipeline.language.writing import Stretch, Word, listed, write
from serve_app.pipeline.wording import Wording

_RELATIVE = frozenset(("that", "which", "who"))
_MEANWHILE = frozenset(("while", "as", "where"))
"""What joins two clauses that both say something: not "two children while a dog is watching"."""
LONGEST_SENTENCE = 26
"""Words from which on nothing more joins a sentence."""


class Rendering:
    """Writes a composition, always as it stands now."""

    def __init__(self, caption: Composition) -> None:
        self.caption = caption
        self.wording = Wording(caption)

    def render(self) -> tuple[str, list[Stretch]]:
        """The caption's text, and where each statement stands in it."""
        return write(self.sentences())

    @property
    def text(self) -> str:
        return self.render()[0]

    def sentences(self) -> Iterator[list[Word]]:
        first: list[Word] = []
        bare = False
        comma: int | None = None  # where the last thing of a list begins in `first`
        for number, clause in enumerate(self.caption.reading.clauses):
            words = self.clause(clause, number == 0)
            if not words:
                if comma is not None and "and" in self.caption.reading.words[slice(*clause.span)][:2]:
                    first[comma] = Word("and")  # the last of a list went
                continue
            begin = words[0].text == ","
            if first and words[begin].text in _MEANWHILE and bare != self._is_bare(clause):
                yield first
                first, words = [], words[begin + 1 :]
            elif first and words[begin].text in _MEANWHILE and bare:
                words[: begin + 1] = [Word("and")]
            bare = self._is_bare(clause)
            stop = clause.span[0] and self.caption.reading.words[clause.span[0]] in ".!?;" and first
            if stop or (first and len(first) + len(words) > LONGEST_SENTENCE + 4 and clause.verb):
                yield first
                first = []
            comma = len(first) if first and words[0].text == "," and clause.subjects else None
            first += words
        yield first
        for number, facts in self.caption.facts.items():
            if self.caption.is_written(number):
                yield from self.fact_sentences(number, facts)
        if things := self.caption.things:
            opening = [Word("There"), Word("are" if things[0].several else "is"), Word("also")]
            yield opening + listed([thing.words for thing in things])
        yield from map(list, self.caption.alone)

    def _is_bare(self, clause: Clause) -> bool:
        """Whether nothing stays that was said of a clause's subjects."""
        return bool(clause.pieces) and not any(map(self.caption.piece_kept, clause.pieces))

    def fact_sentences(self, number: int, facts: Sequence[Fact]) -> Iterator[list[Word]]:
        thing = self.caption.reading.things[number]
        name = self.caption.renamed.get(number) or tuple(
            Word(word) for word in self.caption.reading.tokens[slice(*thing.noun)]
        )
        subject = [Word("The"), *(Word(word.text.lower() if word.text.istitle() else word.text) for word in name)]
        several = thing.plural
        for form, verb in (("be", ["are" if several else "is"]), ("have", ["have" if several else "has"]), ("do", [])):
            said = [fact.words for fact in facts if fact.form == form]
            if said:
                yield [*subject, *map(Word, verb), *listed(said)]

    def clause(self, clause: Clause, first: bool) -> list[Word]:
        """The words of a clause; none if nothing of it stays, or only the name of what was spoken of."""
        reading = self.caption.reading
        pieces = [number for number in clause.pieces if self.caption.piece_kept(number)]
        subjects = [number for number in clause.subjects if self.caption.subject_kept(number)]
        main = first or clause is self.caption.main_clause()
        if (clause.subjects and not subjects) or not (subjects or pieces):
            return []
        if not main and clause.pieces and not pieces and all(map(self._is_known, subjects)):
            return []
        begins = [
            *(reading.things[n].span[0] for n in clause.subjects),
            *(reading.pieces[n].lead for n in clause.pieces),
        ]
        words = self.plain(clause.span[0], begins[0]) + self.subjects(clause, subjects)
        if main:
            words += [word for each in self.caption.behind for word in each]
        return words + self.piece_list(clause, pieces, main)

    def _is_known(self, number: int) -> bool:
        thing = self.caption.reading.things[number]
        return thing.pronoun or self.caption.reading.words[thing.span[0]] == "the"

    def subjects(self, clause: Clause, kept: Sequence[int]) -> list[Word]:
        """The subjects that stay, as a list; with the words between them if those are not commas and "and"."""
        reading = self.caption.reading
        said = [self.wording.thing(self.caption.base, number, subject=number == kept[0]) for number in kept]
        spans = [reading.things[number].span for number in kept]
        between = [self.plain(first[1], second[0]) for first, second in pairwise(spans)]
        plain = all(word.text in (",", "and", "plus", "&") for words in between for word in words)
        if plain or len(kept) < len(clause.subjects):
            return listed(said)
        words = list(said[0]) if said else []
        for joining, following in zip(between, said[1:], strict=True):
            words += joining + following
        return words

    def piece_list(self, clause: Clause, kept: Sequence[int], main: bool) -> list[Word]:
        """The words of a clause's pieces with what binds them; what binds one that is left out binds the next."""
        reading, base = self.caption.reading, self.caption.base
        words: list[Word] = []
        pending: list[Word] = []
        tail = self.tail(kept) if main and self.caption.appended else len(kept)
        end: int | None = None
        for place, number in enumerate(clause.pieces):
            piece = reading.pieces[number]
            lead = self.plain(piece.lead if end is None else min(end, piece.lead), piece.span[0])
            end = piece.span[1]
            if number not in kept:
                glue = [word for word in lead if word.text.lower() in BE | _RELATIVE]
                pending = glue if glue and piece.subjects else pending
                continue
            if kept.index(number) == tail:
                words += self.joined_on()
            plain = all(word.text in (",", "and", "while") for word in lead)
            if pending and plain and piece.kind != "with":
                lead = pending
            elif place and not words and plain:
                lead = []
            pending = []
            said = self.wording.piece(base, number)
            mark = said[0].mark if said else None
            if len(said) > 1 or not words or said[0].text != words[-1].text:
                words += [Word(word.text, None if word.text == "," else mark) for word in lead] + said
        return words + (self.joined_on() if main and tail == len(kept) else [])

    def joined_on(self) -> list[Word]:
        return [word for each in self.caption.appended for word in each]

    def tail(self, kept: Sequence[int]) -> int:
        """Where in the kept pieces what is appended goes: before a last "with … in the background"."""
        reading = self.caption.reading
        for place in range(len(kept) - 1, 0, -1):
            piece = reading.pieces[kept[place]]
            if piece.kind == "with" and any(
                other.subjects == (piece.objects[-1],) for other in reading.pieces if piece.objects
            ):
                return place
        return len(kept)

    def plain(self, start: int, end: int) -> list[Word]:
        """Words of the first text that only join others; without "there is"."""
        base, hidden = self.caption.base, self.caption.hidden
        words = [Word(self.wording.token(base, at)) for at in range(start, end) if at not in hidden]
        if len(words) > 1 and words[0].text.lower() == "there" and words[1].text in BE:
            return words[2:]
        return words

    def note_said(self) -> None:
        """Notes what the first text says, as it stands now."""
        self.caption.said |= content(word.text.lower() for words in self.sentences() for word in words)
        things = enumerate(self.caption.reading.things)
        self.caption.heads |= {thing.head for number, thing in things if self.caption.is_written(number)}
        for number, statement in enumerate(self.caption.reading.statements):
            if number not in self.caption.dropped:
                for each in statement.about:
                    self.caption.said_of[each] = self.caption.said_of.get(each, frozenset()) | statement.claims
