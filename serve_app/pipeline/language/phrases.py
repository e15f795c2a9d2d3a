"""Noun phrases: "a group of young men", "a snow covered mountain", "a plate of food"."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from serve_app.pipeline.language import kinds, lexicon
from serve_app.pipeline.language.grammar import (
    ADVERBS,
    BE,
    CLOTHING,
    CONJUNCTIONS,
    DETERMINERS,
    HAVE,
    PLURAL_DETERMINERS,
    PREPOSITIONS,
    PRONOUNS,
    QUANTITIES,
)
from serve_app.pipeline.language.kinds import concept
from serve_app.pipeline.language.lexicon import is_past_participle, is_plural, is_present_participle
from serve_app.pipeline.language.reading import PieceKind, Span, Thing
from serve_app.pipeline.language.words import CLOSED, Words

MAX_DEPTH = 8
"""Most things that hang on one another: "a cup of a set of a kind of …"."""


class Phrases:
    """Reads the things of a text; `things` are those that were found."""

    def __init__(self, text: Words) -> None:
        self.text = text
        self.things: list[Thing] = []

    def noun_phrase(self, start: int, depth: int = 0) -> Thing | None:
        """The noun phrase that begins at `start`, with its "of …"; adds its complement to `things`.

        `depth` counts the "of" that it stands behind."""
        if self.text.at(start) in PRONOUNS and self.text.at(start) not in ("one", "each", "another"):
            return Thing(
                (start, start + 1), (start, start), (), (start, start + 1), None, self.text.at(start), False, True
            )
        if self.text.words[start : start + 2] in (("each", "other"), ("one", "another")):
            return Thing((start, start + 2), (start, start), (), (start, start + 2), None, "each other", True, True)
        place = self._determiners(start)
        quantity_end = place
        attributes: list[Span] = []
        noun = place
        while place < self.text.end:
            length = self.text.attribute_length(place, start) if noun == place else 0
            if length:
                attributes.append((place, place + length))
                place = noun = place + length
                continue
            taken = self._noun_word(place, noun, start, quantity_end)
            if taken == "restart":
                attributes.append((noun, place + 1))
                noun = place + 1
            elif not taken:
                break
            place += 1
        if noun == place:
            if attributes and self.text.words[attributes[-1][0]] not in ADVERBS:
                first, last = attributes.pop()
                noun = last - 1
                if last - first > 1 and not attributes:
                    attributes = [(first, last - 1)] if self.text.at(last - 2) not in CONJUNCTIONS else []
            elif quantity_end > start and self.text.words[quantity_end - 1] not in ("a", "an", "the", "no", "every"):
                noun = quantity_end = quantity_end - 1
            else:
                return None
        return self._with_complement(start, quantity_end, attributes, (noun, place), depth)

    def _with_complement(self, start: int, quantity_end: int, attributes: list[Span], noun: Span, depth: int) -> Thing:
        end = noun[1]
        head = self.text.words[end - 1]
        if self.text.at(end) == "of" and self.text.at(end + 1) not in ("", ",", "and") and depth < MAX_DEPTH:
            inner = self.noun_phrase(end + 1, depth + 1)
            if inner is not None and head in QUANTITIES and not inner.pronoun:
                several = inner.plural or head in ("group", "couple", "pair", "bunch", "herd", "flock", "crowd", "team")
                return replace(inner, span=(start, inner.span[1]), quantity=(start, inner.quantity[1]), plural=several)
            if inner is not None:
                self.things.append(inner)
                whole = (start, inner.span[1])
                return self._thing(whole, (start, quantity_end), attributes, noun, len(self.things) - 1)
        return self._thing((start, end), (start, quantity_end), attributes, noun, None)

    def _thing(self, span: Span, quantity: Span, attributes: list[Span], noun: Span, complement: int | None) -> Thing:
        words = self.text.words[noun[0] : noun[1]]
        last = words[-1]
        name = " ".join((words[-2], lexicon.lemma(last))) if kinds.is_known_compound(words) else concept(last)
        first = self.text.words[quantity[0] : quantity[1]]
        if any(word in PLURAL_DETERMINERS or (word.isdigit() and word != "1") for word in first):
            several = True
        elif first and first[0] in ("a", "an", "one", "this", "that", "each", "every", "another"):
            several = False
        else:
            several = is_plural(last)
        return Thing(span, quantity, tuple(attributes), noun, complement, name, several)

    def _determiners(self, start: int) -> int:
        place = start
        while place < self.text.end and (
            self.text.words[place] in DETERMINERS or (place == start and self.text.words[place].isdigit())
        ):
            following = self.text.at(place + 1)
            if self.text.words[place] == "that" and (following in BE | HAVE or lexicon.is_finite_form(following)):
                break
            if self.text.words[place] in ("more", "most", "lots", "other") and place == start and following == "":
                break
            place += 1
            if (
                following == "of"
                and self.text.at(place + 1) in DETERMINERS
                and self.text.words[place - 1] not in ("a", "an", "the")
            ):
                place += 1
        return place

    def _noun_word(self, place: int, noun: int, start: int, quantity_end: int) -> Literal["restart", True, False]:
        """Whether the word goes on with the name that began at `noun`; "restart" if the name so far only describes
        ("a snow covered mountain")."""
        word, named = self.text.words[place], place > noun
        if kinds.is_known_compound((word, self.text.at(place + 1))):
            return True
        if place > start and word in ("one", "ones"):
            return True
        if (
            not named
            and place > start
            and (word in ("inside", "outside", "back", "front") and self.text.at(place + 1) == "of")
        ):
            return True
        if word in CLOSED or not (word[0].isalnum() or word[0] in '"&'):
            return False
        if named and lexicon.may_be_participle(word) and self.text.at(place + 1) in DETERMINERS:
            return False
        if is_present_participle(word):
            if lexicon.completes_compound(word, self.text.at(place + 1)):
                return True
            if named:
                return False
            return place > start and "NOUN" in lexicon.parts_of_speech(word)
        if is_past_participle(word):
            if "NOUN" in lexicon.parts_of_speech(word) and (self.text.at(place + 1) == "of" or not named):
                return True
            if named and self.text.is_nominal(place + 1) and not self.text.is_finite(place + 1, False, None):
                return "restart"
            return not named and quantity_end > start and not self.text.at(place + 1)
        if lexicon.parts_of_speech(word) == {"ADV"} or (
            named and word in ADVERBS and not self.text.is_nominal(place + 1)
        ):
            return False
        if named and self.text.is_finite(place, is_plural(self.text.words[place - 1]), self.text.at(quantity_end - 1)):
            return False
        if named and kinds.is_adjective(word) and not kinds.may_be_noun(word) and not self.text.is_nominal(place + 1):
            return False
        if lexicon.parts_of_speech(word) == {"VERB"}:
            return not named and place > start and not word.endswith("ed")
        return True

    def things_from(self, start: int, inside: PieceKind | None, word: str = "") -> tuple[tuple[int, ...], int]:
        """Things joined by commas and "and"; `inside` is the kind of piece that they belong to, None for subjects."""
        first = self.noun_phrase(start)
        if first is None:
            return (), start
        self.things.append(first)
        found, end = [len(self.things) - 1], first.span[1]
        while True:
            place = end
            if self.text.at(place) == ",":
                place += 1
            if self.text.at(place) in ("and", "or", "&", "plus"):
                place += 1
            listed = place > end or (inside == "with" and self.text.at(place) in ("a", "an"))
            if not listed or place >= self.text.end or self.text.is_finite(place, False, None):
                break
            if (
                inside == "finite"
                and lexicon.is_finite_form(self.text.words[place])
                and self.text.is_preposition(place + 1)
            ):
                break
            before = len(self.things)
            following = self.noun_phrase(place)
            if following is None or following.pronoun:
                del self.things[before:]
                break
            worn = self._is_worn(first) and self._is_worn(following)
            if not worn and self._begins_clause(following, inside, word):
                del self.things[before:]
                break
            self.things.append(following)
            found.append(len(self.things) - 1)
            end = following.span[1]
        return tuple(found), end

    def _is_worn(self, thing: Thing) -> bool:
        return self.text.words[thing.noun[1] - 1] in CLOTHING

    def _begins_clause(self, thing: Thing, inside: PieceKind | None, word: str) -> bool:
        """Whether the noun phrase behind "and" begins something new rather than going on with the list."""
        place = thing.span[1]
        following = self.text.at(place)
        if inside is None or word == "between":
            return False
        if self.text.verb_follows(place, thing.plural):
            return True
        if is_present_participle(following) or is_past_participle(following):
            return inside in ("place", "verb", "finite", "infinitive")
        return inside == "place" and following in PREPOSITIONS - {"with"}
