"""From a text to its reading.

The grammar is that of captions: noun phrases, and behind them pieces that are said of them; what has no form that is
known is kept whole.
"""

from __future__ import annotations

from dataclasses import replace

from serve_app.pipeline.language import kinds, lexicon
from serve_app.pipeline.language.grammar import ADVERBS, BE, DETERMINERS, HAVE, MEDIA, PREPOSITIONS, PRONOUNS, RELATIVES
from serve_app.pipeline.language.lexicon import is_past_participle, is_present_participle
from serve_app.pipeline.language.phrases import Phrases
from serve_app.pipeline.language.pieces import Pieces
from serve_app.pipeline.language.reading import Clause, Piece, Reading
from serve_app.pipeline.language.statements import statements
from serve_app.pipeline.language.tokens import STOPS, tokens
from serve_app.pipeline.language.words import Words


def read(text: str) -> Reading:
    """The text with its statements. A text without any form that is known is one statement, a whole."""
    given = tuple(tokens(text))
    return _Clauses(text, given).reading()


class _Clauses:
    """Reads the clauses of a text."""

    def __init__(self, text: str, given: tuple[str, ...]) -> None:
        self.whole = text
        self.tokens = given
        self.text = Words([token.lower() for token in given])
        self.phrases = Phrases(self.text)
        self.reader = Pieces(self.text, self.phrases)
        self.clauses: list[Clause] = []

    def reading(self) -> Reading:
        place = 0
        while place < self.text.end:
            place = max(self._clause(place), place + 1)
        reading = Reading(
            self.whole,
            self.tokens,
            self.text.words,
            tuple(self.phrases.things),
            tuple(self.reader.pieces),
            tuple(self.clauses),
        )
        return replace(reading, statements=tuple(statements(reading)))

    def _clause(self, start: int) -> int:
        place = start
        while place < self.text.end and (
            self.text.words[place]
            in STOPS
            | {",", "and", "but", "while", "where", "plus", "as", "then", "also", "or", "when", "because", "so"}
        ):
            place += 1
        if self.text.at(place) == "there" and self.text.at(place + 1) in BE:
            place += 2
            while self.text.at(place) in ADVERBS:
                place += 1
        if self._introduces(place):
            place += 1
        if place >= self.text.end:
            return place
        first_piece = len(self.reader.pieces)
        subjects: tuple[int, ...] = ()
        if not self._begins_piece(place):
            subjects, place = self.phrases.things_from(place, None)
            if not subjects:
                return self._rest(start, place)
        speaks_of = tuple(map(self._meant, subjects))
        if (
            len(speaks_of) == 1
            and self.phrases.things[speaks_of[0]].head in ("it", "they", "he", "she")
            and self.clauses
            and self.clauses[-1].subjects
        ):
            known = self.clauses[-1].subjects
            if self.text.at(place + 1) not in ("night", "day", "raining", "snowing", "sunny", "dark", "cloudy"):
                speaks_of = tuple(map(self._meant, known))
        place, verb = self._pieces(place, speaks_of)
        self.clauses.append(Clause((start, place), subjects, tuple(range(first_piece, len(self.reader.pieces))), verb))
        return place

    def _introduces(self, place: int) -> bool:
        """ "with the dog in the upper half": what is known already, and a place for it; not "a man with the ball"."""
        return (
            self.text.at(place) == "with" and self.text.at(place + 1) == "the" and self.text.at(place - 1) in ("", ",")
        )

    def _meant(self, number: int) -> int:
        thing = self.phrases.things[number]
        return thing.complement if thing.head in MEDIA and thing.complement is not None else number

    def _rest(self, start: int, place: int) -> int:
        """Keeps what has no form that is known, up to the next mark or clause."""
        end = max(place, start) + 1
        while end < self.text.end and self.text.words[end] not in STOPS | {","}:
            end += 1
        subjects = self.clauses[-1].subjects if self.clauses else ()
        self.reader.pieces.append(Piece("rest", (start, end), subjects, (), start))
        self.clauses.append(Clause((start, end), (), (len(self.reader.pieces) - 1,), False))
        return end

    def _begins_piece(self, place: int) -> bool:
        word = self.text.at(place)
        if self.text.is_preposition(place):
            return True
        if is_present_participle(word):
            return not lexicon.completes_compound(word, self.text.at(place + 1)) and not self.text.attribute_length(
                place, place
            )
        return is_past_participle(word) and not self.text.leads_to_noun(place + 1)

    def _pieces(self, place: int, subjects: tuple[int, ...]) -> tuple[int, bool]:
        """Reads pieces up to where a new clause begins. Returns that place, and whether a verb joins them."""
        verb = False
        relative: tuple[int, ...] | None = None
        first = len(self.reader.pieces)
        while place < self.text.end:
            lead = place
            speaks_of = subjects if relative is None else relative
            while place < self.text.end:
                word = self.text.words[place]
                if word in BE and not self._is_noun_being(place):
                    verb = verb or relative is None
                elif word in RELATIVES and (place > lead or place) and self._relative(place):
                    nearest = self._nearest(first, subjects)
                    relative = speaks_of = nearest
                elif word in ("and", "while", "but", "or", ",", "as", "then", "plus"):
                    if self._new_clause(place) or self._introduces(place + 1):
                        return (lead if lead < place and self.text.words[lead] in (",", "and") else place), verb
                    relative = None if word != "," else relative
                    speaks_of = subjects if relative is None else relative
                elif word in ("both", "also", "being", "just", "currently", "all", "now") and self._goes_on(place):
                    pass
                else:
                    break
                place += 1
            if place >= self.text.end or self.text.words[place] in STOPS:
                return place, verb
            end = self.reader.piece_at(place, lead, speaks_of, first)
            if end == place:
                return place, verb
            verb = verb or (self.reader.pieces[-1].kind == "finite" and relative is None)
            place = end
        return place, verb

    def _is_noun_being(self, place: int) -> bool:
        return self.text.words[place] == "being" and not (place and self.text.words[place - 1] in BE)

    def _relative(self, place: int) -> bool:
        following = self.text.at(place + 1)
        return following in BE | HAVE or lexicon.is_finite_form(following) or following in PRONOUNS

    def _goes_on(self, place: int) -> bool:
        following = self.text.at(place + 1)
        return (
            following in PREPOSITIONS | DETERMINERS
            or is_present_participle(following)
            or is_past_participle(following)
            or kinds.is_adjective(following)
        )

    def _nearest(self, first: int, subjects: tuple[int, ...]) -> tuple[int, ...]:
        """The thing right before: the last object of this clause's pieces, else its subjects."""
        for piece in reversed(self.reader.pieces[first:]):
            if piece.objects:
                return (piece.objects[-1],)
        return subjects

    def _new_clause(self, place: int) -> bool:
        """Whether what follows the connecting word has a subject of its own."""
        place += 1
        while self.text.at(place) in ("and", "while", "then", "also", "with") and self.text.at(place) != "with":
            place += 1
        word = self.text.at(place)
        if not word or word in STOPS:
            return False
        if word == "there" and self.text.at(place + 1) in BE:
            return True
        if word in BE | RELATIVES or self._begins_piece(place):
            return False
        if lexicon.is_finite_form(word) and lexicon.parts_of_speech(word) == {"VERB"}:
            return False
        behind = self.text.at(place + 1) in DETERMINERS | PREPOSITIONS
        if lexicon.is_finite_form(word) and behind and word not in DETERMINERS:
            return False
        describes = kinds.is_adjective(word) or word in ADVERBS
        return not describes or self.text.leads_to_noun(place + 1)
