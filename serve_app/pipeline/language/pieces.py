"""What is said of things: participles, verbs, places, "with …"."""

from __future__ import annotations

from dataclasses import replace

from serve_app.pipeline.language import kinds, lexicon
from serve_app.pipeline.language.grammar import ADVERBS, BE, HAVE, PARTICLES, PREPOSITIONS, PRONOUNS, words_of
from serve_app.pipeline.language.lexicon import is_past_participle, is_present_participle, verb_of
from serve_app.pipeline.language.phrases import Phrases
from serve_app.pipeline.language.reading import Piece, PieceKind, Span
from serve_app.pipeline.language.verbs import Verbs
from serve_app.pipeline.language.words import CLOSED, Words

_HOLDERS = words_of("wall walls top side front back background foreground middle center corner edge bottom left right")
_COMPLETED = words_of("full ready available similar covered")
"""Adjectives that something completes: "ready for dinner"."""
_OF_THE_NEAREST = words_of("fill cover top make decorate attach tie surround paint write build line stack print")


class Pieces:
    """Reads the pieces of a text; `pieces` are those that were found."""

    def __init__(self, text: Words, phrases: Phrases) -> None:
        self.text = text
        self.phrases = phrases
        self.verbs = Verbs(text, phrases)

    @property
    def pieces(self) -> list[Piece]:
        return self.verbs.pieces

    def piece_at(self, place: int, lead: int, speaks_of: tuple[int, ...], first: int) -> int:
        """Reads one piece; returns `place` if none begins."""
        word = self.text.words[place]
        if word in ("not", "never") and place + 1 < self.text.end:
            behind = place + 1
            while behind + 1 < self.text.end and self.text.words[behind] in ("not", "never"):
                behind += 1
            end = self.piece_at(behind, lead, speaks_of, first)
            self.pieces[-1] = replace(self.pieces[-1], span=(place, max(end, place + 2)))
            return self.pieces[-1].span[1]
        bound = place > lead and self.text.words[place - 1] in BE | {"being", "not", "never"}
        previous = self.verbs.pieces[-1] if len(self.verbs.pieces) > first else None
        if word == "of" and previous is not None:
            objects, end = self.phrases.things_from(place + 1, "with")
            if not objects and self.text.is_participle(place + 1):
                end = self.verbs.verb_at(place + 1, lead, speaks_of, "verb")
                objects = self.verbs.pieces.pop().objects
            if end > place + 1:
                self.verbs.pieces[-1] = replace(
                    self.verbs.pieces[-1], span=(previous.span[0], end), objects=objects[-1:]
                )
                return end
        if word == "to" and self.verbs.is_infinitive(place + 1):
            return self._to(place, lead, speaks_of, previous)
        if self.text.is_preposition(place):
            return self._place(place, lead, speaks_of, previous)
        if self.text.is_participle(place):
            return self._participle(place, lead, speaks_of, previous)
        if word in HAVE or (lexicon.is_finite_form(word) and not bound) or self.text.is_finite(place, False, None):
            return self.verbs.verb_at(place, lead, speaks_of, "finite")
        if kinds.is_adjective(word) and word not in ADVERBS and not self.text.leads_to_noun(place + 1):
            return self._adjective(place, lead, speaks_of)
        if word in ADVERBS or (word not in CLOSED and lexicon.parts_of_speech(word) == {"ADV"}):
            return self._adverb(place, lead, speaks_of, previous)
        objects, end = self.phrases.things_from(place, "noun")
        if objects:
            if (
                bound
                and self.text.is_participle(end)
                and self.phrases.things[objects[-1]].quantity[0] == self.phrases.things[objects[-1]].quantity[1]
            ):
                last = self.verbs.verb_at(end, lead, speaks_of, "verb")
                self.verbs.pieces[-1] = replace(self.verbs.pieces[-1], span=(place, last))
                return last
            kind: PieceKind = "noun" if bound else "rest"
            self.verbs.add(kind, place, end, lead, speaks_of, objects)
            return end
        self.verbs.add("rest", place, place + 1, lead, speaks_of, ())
        return place + 1

    def _to(self, place: int, lead: int, speaks_of: tuple[int, ...], previous: Piece | None) -> int:
        before = len(self.verbs.pieces)
        end = self.verbs.verb_at(place + 1, lead, speaks_of, "infinitive")
        made = self.verbs.pieces[before]
        if previous is not None and previous.kind in ("verb", "finite", "adjective") and not previous.objects:
            self.verbs.pieces[before - 1 : before + 1] = [
                replace(previous, span=(previous.span[0], end), objects=made.objects)
            ]
        else:
            self.verbs.pieces[before] = replace(made, span=(place, end))
        return end

    def _place(self, place: int, lead: int, speaks_of: tuple[int, ...], previous: Piece | None) -> int:
        word, length = self.text.words[place], self.text.preposition_length(place)
        start = place + length
        if word in ("with", "without") and self.text.at(start) not in PRONOUNS:
            objects, end = self.phrases.things_from(start, "with")
            if objects:
                self.verbs.add("with", place, end, lead, speaks_of, objects)
                return self._held(end)
        if length == 1 and self.text.at(start) in PREPOSITIONS - {"with"}:
            start += 1  # "down by the water", "up in the air"
        acts = is_present_participle(self.text.at(start)) and not self.text.is_nominal(start)
        if acts and not self.text.leads_to_noun(start):
            end = self.verbs.verb_at(start, lead, speaks_of, "verb")
            self.pieces[-1] = replace(self.pieces[-1], span=(place, end))
            return end
        objects, end = self.phrases.things_from(start, "place", word)
        if not objects:
            return self._adverb(place, lead, speaks_of, previous, start)
        leaning = self.verbs.leans(place, end)
        target = self._placed(objects[-1], leaning, (lead, place), previous) or speaks_of
        self.verbs.add("place", place, end, lead, target, objects, leaning and previous is not None)
        return end

    def _placed(self, number: int, leaning: bool, begins: Span, previous: Piece | None) -> tuple[int, ...]:
        """What a place is said of other than the subject: what the subject has ("with a clock on the side"), or what
        the verb before it is said of."""
        if previous is None:
            return ()
        if previous.kind == "with" and previous.objects and previous.span[1] in begins:
            where = self.phrases.things[number]
            holder = where.complement is None and self.text.words[where.noun[1] - 1] in _HOLDERS
            return (previous.objects[-1],) if leaning or where.pronoun or holder else ()
        if previous.kind in ("verb", "finite") and previous.span[1] == begins[0] == begins[1]:
            return previous.subjects
        return ()

    def _held(self, end: int) -> int:
        """ "with the lights on": a word that ends what something has."""
        if self.text.at(end) in PARTICLES and self.text.at(end + 1) in ("", ",", "and", ".", "using", "while"):
            last = self.pieces[-1]
            self.pieces[-1] = replace(last, span=(last.span[0], end + 1))
            return end + 1
        return end

    def _participle(self, place: int, lead: int, speaks_of: tuple[int, ...], previous: Piece | None) -> int:
        behind = previous is not None and bool(previous.objects) and lead == place
        if behind and previous is not None and self._is_of_the_nearest(place, speaks_of, previous):
            speaks_of = (previous.objects[-1],)
        return self.verbs.verb_at(place, lead, speaks_of, "verb")

    def _is_of_the_nearest(self, place: int, subjects: tuple[int, ...], previous: Piece) -> bool:
        """Whether a participle is said of the object before it rather than of the subject."""
        base, nearest = verb_of(self.text.words[place]), previous.objects[-1]
        if self._is_one_of("animal person", nearest):
            return previous.kind == "with" or not any(self._is_one_of("animal person", each) for each in subjects)
        if is_past_participle(self.text.words[place]) and base in _OF_THE_NEAREST:
            return True
        if base == "park" and not any(self._is_one_of("vehicle", each) for each in subjects):
            return self._is_one_of("vehicle", nearest)
        lives = base in lexicon.OF_THE_LIVING and any(self._is_one_of("animal person", each) for each in subjects)
        return previous.kind == "with" and base not in lexicon.RESTING and not lives

    def _is_one_of(self, names: str, number: int) -> bool:
        head = self.phrases.things[number].head
        return bool((kinds.kinds_of(head) | {head}) & words_of(names))

    def _adjective(self, place: int, lead: int, speaks_of: tuple[int, ...]) -> int:
        """ "full of cherries", "old and rusty" behind what they describe."""
        end = place + 1
        while self.text.at(end) in ("and", ",", "or") and self.text.describes(end + 1):
            if self.text.leads_to_noun(end + 2):
                break
            end += 2
        objects: tuple[int, ...] = ()
        word, following = self.text.words[place], self.text.at(end)
        filled = following == "of" or (word in _COMPLETED and following in ("of", "with", "for", "to", "from"))
        if filled and not (following == "to" and self.verbs.is_infinitive(end + 1)):
            objects, last = self.phrases.things_from(end + 1, "with", following)
            end = last if objects else end
        self.verbs.add("adjective", place, end, lead, speaks_of, objects)
        return end

    def _adverb(
        self, place: int, lead: int, speaks_of: tuple[int, ...], previous: Piece | None, end: int | None = None
    ) -> int:
        """An adverb goes with the piece before it; alone ("the lights are on") it is one."""
        end = end or place + 1
        if previous is not None and lead == place:
            self.verbs.pieces[-1] = replace(previous, span=(previous.span[0], end))
        else:
            self.verbs.add("adjective", place, end, lead, speaks_of, ())
        return end
