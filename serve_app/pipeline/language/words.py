"""What each word of a text can be where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.pipeline.language import kinds, lexicon
from serve_app.pipeline.language.grammar import (
    ADVERBS,
    BE,
    CONJUNCTIONS,
    CONNECTIVES,
    DETERMINERS,
    HAVE,
    LONG_PREPOSITIONS,
    MASS,
    PREPOSITIONS,
    PRONOUNS,
    RELATIVES,
)
from serve_app.pipeline.language.lexicon import is_past_participle, is_plural, is_present_participle, verb_of
from serve_app.pipeline.language.tokens import STOPS

CLOSED = (
    (
        PREPOSITIONS
        | BE
        | HAVE
        | RELATIVES
        | CONJUNCTIONS
        | CONNECTIVES
        | (DETERMINERS - {"other", "more"})
        | (PRONOUNS - {"one"})
    )
    | STOPS
    | {","}
)
"""Words that no name of a thing has."""


class Words:
    """The words of a text in lower case."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.end = len(self.words)

    def at(self, place: int) -> str:
        return self.words[place] if 0 <= place < self.end else ""

    def attribute_length(self, place: int, start: int) -> int:
        """How many tokens from `place` on describe the noun that follows: "black and white", "very tall", "parked".

        `start` is where the noun phrase begins."""
        length = self._describing(place, start)
        if not length:
            return 0
        while self.at(place + length) in ("and", ",") and self.describes(place + length + 1):
            following = place + length + 1
            alike = self.at(place + length) == "and" or self._same_kind(place, following)
            if not alike or not self.leads_to_noun(following + 1):
                break
            length += 2
        if length == 1 and self.at(place + 1) in kinds.DESCRIBED_PARTS and self.leads_to_noun(place + 2):
            return 2
        shaded = self.words[place + length - 1] in kinds.SHADES
        if shaded and kinds.kind_of_adjective(self.at(place + length)) == "colour":
            length += self.leads_to_noun(place + length + 1)
        return length

    def _describing(self, place: int, start: int) -> int:
        """Tokens of the describing word at `place`, with an adverb before it or a particle behind it; 0 for none."""
        word, following = self.words[place], self.at(place + 1)
        if (word in CLOSED and word not in ADVERBS) or kinds.is_known_compound((word, following)):
            return 0
        if word in ADVERBS or lexicon.parts_of_speech(word) == {"ADV"}:
            describes = kinds.is_adjective(following) or is_past_participle(following)
            return 2 if describes and word not in PREPOSITIONS and self.leads_to_noun(place + 2) else 0
        if is_present_participle(word):
            if lexicon.completes_compound(word, following) or not self.is_nominal(place + 1):
                return 0
            return int(place > start or is_plural(following) or following in MASS)
        particle = following in ("in", "off", "out", "up") and place > start  # "a fenced in area"
        if is_past_participle(word) and particle and self.is_nominal(place + 2):
            return 2
        return int((is_past_participle(word) or kinds.is_adjective(word)) and self.leads_to_noun(place + 1))

    def _same_kind(self, first: int, second: int) -> bool:
        kind = kinds.kind_of_adjective(self.words[first])
        return kind is not None and kind == kinds.kind_of_adjective(self.at(second))

    def describes(self, place: int) -> bool:
        word = self.at(place)
        return (
            bool(word)
            and word not in DETERMINERS | PREPOSITIONS
            and (kinds.is_adjective(word) or is_past_participle(word))
        )

    def leads_to_noun(self, place: int) -> bool:
        """Whether a noun comes at `place` or behind further words that describe it."""
        while True:
            word, following = self.at(place), self.at(place + 1)
            if word in ("one", "ones"):
                return True
            if word in ("and", ",") and self.describes(place + 1):
                place += 2
            elif not word or word in CLOSED or not word[0].isalnum():
                return False
            elif is_present_participle(word):
                return lexicon.completes_compound(word, following) or self.is_nominal(place + 1)
            elif is_past_participle(word) or (kinds.is_adjective(word) and not kinds.may_be_noun(word)):
                place += 1
            elif lexicon.parts_of_speech(word) not in ({"ADV"}, {"VERB"}):
                return True
            elif kinds.is_adjective(following):
                place += 1
            else:
                return False

    def is_nominal(self, place: int) -> bool:
        word = self.at(place)
        known = bool(word) and word not in CLOSED and word[0].isalnum() and lexicon.is_nominal(word)
        return known and not self.is_preposition(place)

    def is_finite(self, place: int, several: bool, determiner: str | None) -> bool:
        """Whether the word at `place` is the verb of the noun before it: "a cat lays", "two giraffes walk"."""
        word, following = self.at(place), self.at(place + 1)
        third = lexicon.is_third_person(word)
        if third and not several and following in DETERMINERS - {"that"} and "VERB" in lexicon.parts_of_speech(word):
            return True
        if not word or not lexicon.is_finite_form(word):
            return False
        if lexicon.parts_of_speech(word) == {"VERB"}:
            return True
        if third:
            return not several and following not in BE and following != "of"
        if verb_of(word) != word:
            return following in PREPOSITIONS | DETERMINERS | ADVERBS | {""}
        if not several or determiner in ("a", "an"):
            return False
        return (
            following == ""
            or following in PREPOSITIONS | DETERMINERS | ADVERBS | {"and", ","}
            or (self.is_nominal(place + 1) and (is_plural(following) or following in MASS))
            or is_present_participle(following)
        )

    def verb_follows(self, place: int, several: bool) -> bool:
        return self.at(place) in BE | HAVE or self.is_finite(place, several, None)

    def is_preposition(self, place: int) -> bool:
        return self.at(place) in PREPOSITIONS or self.preposition_length(place) > 1

    def preposition_length(self, place: int) -> int:
        return preposition_length(self.words[place : place + 5])

    def is_participle(self, place: int) -> bool:
        word = self.at(place)
        if lexicon.may_be_participle(word) and self.at(place + 1) in DETERMINERS:
            return True
        return is_present_participle(word) or is_past_participle(word)


def preposition_length(words: Sequence[str]) -> int:
    """Words of the preposition that they begin with: 1, or those of one of several words ("on top of")."""
    for length in range(min(5, len(words)), 1, -1):
        first, *others = words[:length]
        without_article = others[1:] if others[0] in ("the", "a") else others
        if (first, *others) in LONG_PREPOSITIONS or (first, "_", *without_article) in LONG_PREPOSITIONS:
            return length
    return 1
