"""Closed classes of words, and nouns with a use of their own. The lists stand in `data/*.toml`."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Any


def data(name: str) -> dict[str, Any]:
    """The word lists of `data/NAME.toml`."""
    return tomllib.loads((files(__package__) / "data" / f"{name}.toml").read_text(encoding="utf-8"))


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GRAMMAR, _NOUNS = data("grammar"), data("nouns")

NUMBERS = words_of(_GRAMMAR["numbers"])
PLURAL_DETERMINERS = NUMBERS | words_of(_GRAMMAR["plural_determiners"])
DETERMINERS = PLURAL_DETERMINERS | words_of(_GRAMMAR["determiners"])
POSSESSIVES = words_of(_GRAMMAR["possessives"])
PRONOUNS = words_of(_GRAMMAR["pronouns"])
LEANING = POSSESSIVES | PRONOUNS
"""Words that lean on what was said before them."""
BE = words_of(_GRAMMAR["be"])
HAVE = words_of(_GRAMMAR["have"])
RELATIVES = words_of(_GRAMMAR["relatives"])
CONJUNCTIONS = words_of(_GRAMMAR["conjunctions"])
CONNECTIVES = words_of(_GRAMMAR["connectives"])
PREPOSITIONS = words_of(_GRAMMAR["prepositions"])
MOTION = words_of(_GRAMMAR["motion"])
PARTICLES = words_of(_GRAMMAR["particles"])
ADVERBS = words_of(_GRAMMAR["adverbs"])
QUANTITIES = words_of(_NOUNS["quantities"])
MEDIA = words_of(_NOUNS["media"])
ONE_BY_ONE = words_of(_NOUNS["one_by_one"])
CLOTHING = words_of(_NOUNS["clothing"])
DIRECTIONS = words_of(_NOUNS["directions"])
MASS = words_of(_NOUNS["mass"])
TIMES = words_of(_NOUNS["times"])
VAGUE = words_of(_NOUNS["vague"])
TORN = frozenset(tuple(name.split()) for name in _NOUNS["torn"].split("|"))
POSITIONS = words_of("left right top bottom upper lower front back middle center rear far near close other same")
"""Words before a noun that say which part of something is meant and describe nothing."""
NEGATIONS = words_of("no not never without")
"""What turns a statement into its opposite."""
EMPTY = (
    (DETERMINERS - PLURAL_DETERMINERS)
    | words_of("these those both")
    | PREPOSITIONS
    | BE
    | HAVE
    | RELATIVES
    | CONJUNCTIONS
    | CONNECTIVES
    | PRONOUNS
    | words_of("there also very some")
) - NEGATIONS
"""Words that say nothing of an image by themselves; numbers do."""
LONG_PREPOSITIONS = frozenset(
    tuple(phrase.split())
    for phrase in _GRAMMAR["prepositions_of_words"].replace("\n", "|").split("|")
    if phrase.strip()
)
"""Prepositions of several words; "_" stands for an article or nothing."""
