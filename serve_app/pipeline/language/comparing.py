"""What says the same, what says more, and what can't be true together."""

from __future__ import annotations

from collections.abc import Iterable

from serve_app.pipeline.language.grammar import DIRECTIONS, MEDIA, NUMBERS, VAGUE, words_of
from serve_app.pipeline.language.kinds import (
    EXCLUSIVE_KINDS,
    MANY_COLOURED,
    OPPOSITES,
    WHERE,
    concept,
    content,
    exclusive,
    kind_of_adjective,
    kinds_of,
)
from serve_app.pipeline.language.lexicon import LIGHT
from serve_app.pipeline.language.reading import Piece, Reading, Thing

_TOP = words_of("person animal vehicle")
"""Kinds of which two texts that name one thing each mean the same thing."""
_EXACT = {"couple": "two", "pair": "two", "both": "two"}
_UNTOLD = LIGHT | DIRECTIONS | frozenset(map(concept, VAGUE)) | words_of("front back next beside word")


def telling(words: Iterable[str]) -> frozenset[str]:
    """Of concepts those that say something of a thing: no postures, no words that only hold a direction."""
    return frozenset(word for word in words if word not in _UNTOLD)


def is_said(word: str, said: frozenset[str]) -> bool:
    """Whether a concept, or a more exact one, was said."""
    return word in said or any(word in kinds_of(other) for other in said)


def news(claims: Iterable[str], said: frozenset[str], of_it: frozenset[str] = frozenset()) -> frozenset[str]:
    """The concepts that tell something new, when they outweigh those that were said; else none. `of_it` are those that
    were said of the thing that the claims speak of; where it is in the picture is new unless it was said of it."""
    told = telling(claims)
    new = frozenset(word for word in told if not is_said(word, of_it if word in WHERE else said))
    return new if len(new) > len(told) - len(new) else frozenset()


def number_of(reading: Reading, thing: Thing) -> str | None:
    """How many, if the text counts: "two", also for "a couple of"."""
    for word in reading.said_of(thing.quantity):
        if word in NUMBERS or word in _EXACT or (word.isdigit() and len(word) < 4):
            return _EXACT.get(word, word)
    return None


def related(first: Thing, second: Thing) -> bool:
    """Whether two names can be of one thing: the same concept, or one a kind of the other."""
    one, other = first.head, second.head
    return one == other or one in kinds_of(other) or other in kinds_of(one)


def is_of_a_top_kind(name: str) -> bool:
    """Whether a name is one of persons, animals or vehicles, whose more exact names say the same better."""
    return bool((kinds_of(name) | {name}) & _TOP)


def alike(first: Thing, second: Thing) -> bool:
    """Whether the main things of two texts may be one although their names differ: a man and a skier."""
    one, other = kinds_of(first.head) | {first.head}, kinds_of(second.head) | {second.head}
    return bool(one & other & _TOP) and first.plural == second.plural


def aligned(reading: Reading, base: Reading) -> dict[int, int]:
    """Which things of `reading` are things of `base`: by concept, by kind, at last the main things by being main."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    mains = ((reading.main, base.main),) if reading.main is not None and base.main is not None else ()
    everything = [(theirs, ours) for theirs in range(len(reading.things)) for ours in range(len(base.things))]
    for fits in (_same, related):
        for theirs, ours in (*mains, *everything):
            first, second = reading.things[theirs], base.things[ours]
            if theirs in found or ours in taken or first.pronoun or second.pronoun or first.head in MEDIA:
                continue
            if fits(first, second):
                found[theirs] = ours
                taken.add(ours)
    by_head = {reading.things[theirs].head: ours for theirs, ours in found.items()}
    for theirs, thing in enumerate(reading.things):  # "the dog", once more
        if theirs not in found and thing.head in by_head and reading.words[thing.span[0]] == "the":
            found[theirs] = by_head[thing.head]
    for theirs, ours in mains:
        free = theirs not in found and ours not in taken and alike(reading.things[theirs], base.things[ours])
        if free and _alone(reading, theirs) and _alone(base, ours) and _share(reading, theirs, base, ours):
            found[theirs] = ours
    return found


def _same(first: Thing, second: Thing) -> bool:
    return first.head == second.head


def _share(reading: Reading, mine: int, base: Reading, its: int) -> bool:
    """Whether two texts say something in common, the names of the two things aside; or one says nothing else."""
    first = telling(reading.content - content(reading.name(mine)))
    second = telling(base.content - content(base.name(its)))
    return bool(first & second) or not first or not second


def _alone(reading: Reading, number: int) -> bool:
    """Whether a thing is the only one of its top kind in its text."""
    kinds = (kinds_of(reading.things[number].head) | {reading.things[number].head}) & _TOP
    others = (other for place, other in enumerate(reading.things) if place != number)
    return not any((kinds_of(other.head) | {other.head}) & kinds for other in others)


def opposed(first: Iterable[str], second: Iterable[str]) -> bool:
    """Whether one says the opposite of a word of the other: "on the left side", "on the right side"."""
    one, other = set(first), set(second)
    return any(OPPOSITES.get(word, frozenset()) & (other - one) for word in one - other)


def is_somewhere(name: str) -> bool:
    """Whether a name is of a place in which things are rather than of a thing that has them."""
    return bool((kinds_of(name) | {name}) & {"setting", "room"})


_RIVALS = words_of("person animal vehicle setting")


def rivals(first: str, second: str) -> bool:
    """Whether two different names are of one kind of which texts often mean the same thing: a car and a truck, a street
    and a parking lot."""
    if first == second or first in kinds_of(second) or second in kinds_of(first):
        return False
    return bool((kinds_of(first) | {first}) & (kinds_of(second) | {second}) & _RIVALS)


def clash(first: Iterable[str], second: Iterable[str]) -> tuple[str, str] | None:
    """Two describing words that can't both be true of one thing: "red" and "blue", "left" and "right"."""
    one, other = set(first), set(second)
    for word in sorted(one - other):
        for against in sorted(other - one):
            if against in OPPOSITES.get(word, ()) or word in OPPOSITES.get(against, ()):
                return word, against
            kind = kind_of_adjective(word)
            same = kind == kind_of_adjective(against) and concept(word) != concept(against)
            if same and kind in EXCLUSIVE_KINDS and MANY_COLOURED.isdisjoint((concept(word), concept(against))):
                return word, against
    return None


def quality(reading: Reading, piece: Piece) -> tuple[str, ...]:
    """The words of a piece that say what something is like, as a describing word would: "full" of "full of apples",
    "closed"; none of another piece."""
    words = reading.said_of(
        (piece.span[0], reading.things[piece.objects[0]].span[0] if piece.objects else piece.span[1])
    )
    like = piece.kind == "adjective" or (piece.kind == "verb" and kind_of_adjective(words[0]) is not None)
    return words if like else ()


def one_name(first: str, second: str) -> str | None:
    """What to say of a thing for which two names that exclude each other were given; None if they don't."""
    if first == second or first in kinds_of(second) or second in kinds_of(first):
        return None
    return exclusive(first, second)
