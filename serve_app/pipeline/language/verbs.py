"""Verbs with their particles, objects and the prepositions that belong to them."""

from __future__ import annotations

from dataclasses import replace

from serve_app.pipeline.language import lexicon
from serve_app.pipeline.language.grammar import (
    BE,
    CONJUNCTIONS,
    CONNECTIVES,
    DETERMINERS,
    HAVE,
    LEANING,
    PARTICLES,
    PREPOSITIONS,
    RELATIVES,
    words_of,
)
from serve_app.pipeline.language.kinds import is_adjective
from serve_app.pipeline.language.lexicon import is_past_participle, is_present_participle, verb_of
from serve_app.pipeline.language.phrases import Phrases
from serve_app.pipeline.language.reading import Piece, PieceKind
from serve_app.pipeline.language.tokens import STOPS
from serve_app.pipeline.language.words import CLOSED, Words

_BEHIND_OBJECTS = words_of("up down off out on together")


class Verbs:
    """Reads verbs; `pieces` are all that were read of a text."""

    def __init__(self, text: Words, phrases: Phrases) -> None:
        self.text = text
        self.phrases = phrases
        self.pieces: list[Piece] = []

    def add(
        self,
        kind: PieceKind,
        start: int,
        end: int,
        lead: int,
        subjects: tuple[int, ...],
        objects: tuple[int, ...],
        leaning: bool = False,
    ) -> None:
        self.pieces.append(Piece(kind, (start, end), subjects, objects, lead, leaning))

    def is_infinitive(self, place: int) -> bool:
        """Whether a verb's base form stands behind "to"."""
        word = self.text.at(place)
        return (
            bool(word)
            and word not in CLOSED
            and "VERB" in lexicon.parts_of_speech(word)
            and verb_of(word) == word
            and (
                self.text.at(place + 1) in DETERMINERS | PREPOSITIONS | {"", ","}
                or "NOUN" not in lexicon.parts_of_speech(word)
            )
        )

    def verb_at(self, place: int, lead: int, speaks_of: tuple[int, ...], kind: PieceKind) -> int:
        """Reads a verb with its particles and objects, and with the preposition that belongs to it; returns its end."""
        verb, end = self.text.words[place], place + 1
        if verb in HAVE | BE and is_past_participle(self.text.at(end)):
            verb, end = self.text.words[end], end + 1
        end = self._particles(end)
        objects: tuple[int, ...] = ()
        if self.text.is_preposition(end):
            objects, last = self._bound(verb, end, kind)
            end = last if objects else end
        elif self._takes_object(verb, end):
            if is_present_participle(self.text.at(end)) and not self.text.leads_to_noun(end):
                return self._chained(place, end, lead, speaks_of, kind)
            objects, end = self._objects(verb, end, kind)
        self.add(kind, place, end, lead, speaks_of, objects)
        return end

    def _particles(self, end: int) -> int:
        """The end of the particles and adverbs behind a verb: "laying down", "moving slowly"."""
        while end < self.text.end and self.text.preposition_length(end) == 1:
            word, following = self.text.words[end], self.text.at(end + 1)
            alone = following in {"", ",", "and", ".", "while"} | PREPOSITIONS or word in ("together", "alone")
            particle = word in PARTICLES and word not in DETERMINERS and alone
            adverb = word not in CLOSED and lexicon.parts_of_speech(word) == {"ADV"}
            if not particle and not (adverb and not self.text.is_nominal(end + 1)):
                break
            end += 1
        return end

    def _bound(self, verb: str, end: int, kind: PieceKind) -> tuple[tuple[int, ...], int]:
        """The objects behind a preposition that belongs to the verb, and their end: "looking at a boat"."""
        word = self.text.words[end]
        passive = is_past_participle(verb)
        if self.text.preposition_length(end) > 1 or (word == "to" and self.is_infinitive(end + 1)):
            return (), end
        if word == "by":
            belongs = passive and verb_of(verb) not in lexicon.RESTING
        elif word in ("with", "to"):
            belongs = passive or lexicon.is_bound(verb, word)
        else:
            belongs = lexicon.is_bound(verb, word)
        return self.phrases.things_from(end + 1, "with" if word == "with" else kind, word) if belongs else ((), end)

    def _takes_object(self, verb: str, end: int) -> bool:
        following = self.text.at(end)
        if not following or following in BE | RELATIVES | CONJUNCTIONS | CONNECTIVES | STOPS | {","}:
            return False
        if is_past_participle(following) and not self.text.leads_to_noun(end + 1):
            return False
        return not is_past_participle(verb) or following in DETERMINERS

    def _objects(self, verb: str, end: int, kind: PieceKind) -> tuple[tuple[int, ...], int]:
        objects, last = self.phrases.things_from(end, kind, verb)
        if not objects:
            return (), end + 1 if is_adjective(self.text.at(end)) else end
        if self.text.at(last) in _BEHIND_OBJECTS and self.text.at(last + 1) in ("", ",", ".", "and"):
            last += 1  # "holding a sign up"
        return objects, last

    def _chained(self, place: int, following: int, lead: int, speaks_of: tuple[int, ...], kind: PieceKind) -> int:
        """ "is sitting reading a book": two participles, each a piece; "gets ready …", "going skiing": one."""
        if verb_of(self.text.words[place]) in lexicon.POSTURES:
            self.add(kind, place, following, lead, speaks_of, ())
            return following
        end = self.verb_at(following, lead, speaks_of, kind)
        self.pieces[-1] = replace(self.pieces[-1], span=(place, end))
        return end

    def leans(self, start: int, end: int) -> bool:
        """Whether a stretch speaks of something outside of it: "in his hand"."""
        return any(
            word in LEANING and word not in ("one", "other", "another", "each") for word in self.text.words[start:end]
        )
