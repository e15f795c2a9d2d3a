"""The statements of a reading: existence, count, attributes, and what is said of each thing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from serve_app.pipeline.language import lexicon
from serve_app.pipeline.language.grammar import HAVE, MASS, NUMBERS, words_of
from serve_app.pipeline.language.kinds import content
from serve_app.pipeline.language.lexicon import article_for, verb_of
from serve_app.pipeline.language.reading import Piece, Reading, Span, Statement
from serve_app.pipeline.language.tokens import untokenized
from serve_app.pipeline.language.words import preposition_length

_SEVERAL = words_of("couple lot number few variety dozen hundred pair")


def statements(reading: Reading) -> Iterable[Statement]:
    """Existence of each subject, attributes of every thing, and each piece."""
    subjects = {number for clause in reading.clauses for number in clause.subjects}
    spoken = {number for piece in reading.pieces for number in piece.objects}
    for number in sorted(subjects):
        if not reading.things[number].pronoun:
            yield from _existence(reading, number)
    for number, thing in enumerate(reading.things):
        counted = count_of(reading, number)
        if counted is not None and thing.plural:
            yield _count(reading, number, counted)
        if number not in subjects | spoken and not any(other.complement == number for other in reading.things):
            continue
        for span in thing.attributes:
            yield _attribute(reading, number, span)
    pieces = list(enumerate(reading.pieces))
    place = 0
    while place < len(pieces):
        number, piece = pieces[place]
        group = [piece]
        while place + 1 < len(pieces) and pieces[place + 1][1].leaning:
            place += 1
            group.append(pieces[place][1])
        yield from _of_piece(reading, number, group)
        place += 1


def indefinite(reading: Reading, number: int) -> str:
    """The thing's name with its "of …", without its number and what describes it: "dogs", "a plate of food"."""
    thing = reading.things[number]
    name = untokenized(reading.name(number))
    given = reading.said_of(thing.quantity)
    if thing.complement is not None:
        name = f"{name} of {indefinite(reading, thing.complement)}"
    if given and given[-1] == "of" and count_of(reading, number) is None:
        return f"{untokenized(given)} {name}"
    if given[:1] == ("no",):
        return f"no {name}"
    if given[:1] in (("several",), ("many",), ("few",), ("some",)):
        return f"{given[0]} {name}"
    if given[:1] in (("a",), ("an",)) and not thing.plural:
        return f"{article_for(name)} {name}"
    if thing.plural or reading.words[thing.noun[1] - 1] in MASS or (given and given[0] in ("no", "all")):
        return name
    return f"{article_for(name)} {name}"


def definite(reading: Reading, number: int) -> str:
    """ "the dogs", "the fire hydrant"; for a group its members."""
    thing = reading.things[number]
    if thing.pronoun:
        return reading.words[thing.noun[0]]
    return f"the {untokenized(reading.name(number))}"


def _existence(reading: Reading, number: int) -> Iterable[Statement]:
    thing = reading.things[number]
    words = content(reading.name(number))
    if thing.complement is not None:
        words |= _names(reading, thing.complement)
    claims = content(reading.said_of(thing.quantity))
    counted = count_of(reading, number)
    if counted is not None and thing.plural:
        claims -= content(reading.said_of(counted))
    yield Statement("thing", _there(reading, [number]), (number,), words, claims, (thing.span,))


def _there(reading: Reading, numbers: Sequence[int]) -> str:
    """ "there is a dog", "there are two dogs", "there is a herd of deer"."""
    first = reading.things[numbers[0]]
    given = reading.said_of(first.quantity)
    grouped = given[:1] == ("a",) and not _SEVERAL & {*given}
    several = len(numbers) > 1 or (first.plural and not grouped)
    told = " and ".join(indefinite(reading, number) for number in numbers)
    return f"there {'are' if several else 'is'} {told}"


def count_of(reading: Reading, number: int) -> Span | None:
    """The words that say how many there are: "two", "a couple of"."""
    start, end = reading.things[number].quantity
    for at in range(start, end):
        word = reading.words[at]
        if word in ("couple", "pair", "dozen") and reading.words[end - 1] == "of":
            return (start, end)
        if word in NUMBERS or (word.isdigit() and len(word) < 4):
            return (at, at + 1)
    return None


def _count(reading: Reading, number: int, span: Span) -> Statement:
    said = reading.said_of(span)
    text = f"there are {untokenized(said)} {untokenized(reading.name(number))}"
    return Statement("count", text, (number,), content(reading.name(number)), content(said), (span,))


def _names(reading: Reading, number: int) -> frozenset[str]:
    thing = reading.things[number]
    found = content(reading.name(number)) | content(reading.said_of(thing.quantity))
    return found | _names(reading, thing.complement) if thing.complement is not None else found


def _attribute(reading: Reading, number: int, span: Span) -> Statement:
    thing = reading.things[number]
    verb = "are" if thing.plural else "is"
    said = reading.said_of(span)
    text = f"{definite(reading, number)} {verb} {untokenized(said)}"
    return Statement("attribute", text, (number,), content(reading.name(number)), content(said), (span,))


def _of_piece(reading: Reading, number: int, group: Sequence[Piece]) -> Iterable[Statement]:
    """One statement, or one for each object of a list: "with a couch", "a table and a lamp"."""
    piece = group[0]
    subjects = tuple(each for each in piece.subjects if not reading.things[each].pronoun)
    if piece.kind == "rest" or not subjects:
        kind: Literal["piece", "whole"] = "piece" if piece.kind == "place" else "whole"
        words = [word for each in group for word in reading.said_of(each.span)]
        whole = tuple((each.lead, each.span[1]) for each in group)
        subject = _names_of(reading, subjects)
        yield Statement(kind, untokenized(words), subjects, subject, content(words) - subject, whole, number)
        return
    bare = _bare(reading, piece)
    parts = _parts(reading, group)
    prefix = _within(bare, piece.span[0], reading.things[piece.objects[0]].span[0]) if piece.objects else []
    for part, (start, end) in enumerate(parts):
        words = [*(prefix if part else ()), *_within(bare, start, end)]
        spans = [(start if part else piece.lead, end)]
        for each in group[1:] if part == len(parts) - 1 else ():
            words += _within(_bare(reading, each), *each.span)
            spans.append((each.lead, each.span[1]))
        told = words if part or piece.kind != "place" else words[preposition_length(words) :]
        claims = content([*told, *(word for word in words if word in ("left", "right"))])
        text = _sentence_of(reading, piece, subjects, words)
        yield Statement("piece", text, subjects, _names_of(reading, subjects), claims, tuple(spans), number)


def _names_of(reading: Reading, numbers: Iterable[int]) -> frozenset[str]:
    return frozenset(word for number in numbers for word in content(reading.name(number)))


def _parts(reading: Reading, group: Sequence[Piece]) -> list[Span]:
    """Where a piece's statements stand: one for each of its objects if it lists several."""
    piece = group[0]
    start, end = piece.span
    if len(piece.objects) < 2 or piece.kind == "place" or len(group) > 1:
        return [(start, end)]
    ends = [reading.things[each].span[1] for each in piece.objects[:-1]]
    firsts = [reading.things[each].span[0] for each in piece.objects[1:]]
    return list(zip([start, *firsts], [*ends, end], strict=True))


def _sentence_of(reading: Reading, piece: Piece, subjects: Sequence[int], words: Sequence[str]) -> str:
    if piece.kind == "with":
        return f"{_there(reading, subjects)} {untokenized(words)}"
    several = len(subjects) > 1 or reading.things[subjects[0]].plural
    names = [definite(reading, each) for each in subjects]
    name = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"{name} {_predicate(piece, words, several)}"


def _bare(reading: Reading, piece: Piece) -> dict[int, str]:
    """The piece's words by their place, without what is a statement of its own: describing words and numbers."""
    words = dict(zip(range(*piece.span), reading.said_of(piece.span), strict=True))
    for number in _things_of(reading, piece):
        thing = reading.things[number]
        counted = count_of(reading, number)
        hidden = [*thing.attributes, *([counted] if counted is not None and thing.plural else [])]
        for place in (place for span in hidden for place in range(*span)):
            words.pop(place, None)
        article = thing.quantity[1] - 1
        if thing.attributes and words.get(article) in ("a", "an"):
            words[article] = article_for(reading.words[thing.noun[0]])
    return words


def _things_of(reading: Reading, piece: Piece) -> Iterable[int]:
    """The piece's objects and what they are "of"."""
    for number in piece.objects:
        at: int | None = number
        while at is not None:
            yield at
            at = reading.things[at].complement


def _within(words: dict[int, str], start: int, end: int) -> list[str]:
    return [words[place] for place in range(start, end) if place in words]


def _predicate(piece: Piece, said: Sequence[str], several: bool) -> str:
    words = list(said)
    be = "are" if several else "is"
    if piece.kind == "infinitive" and len(words) > 1:
        words = [lexicon.participle_of(words[1]), *words[2:]]
    if piece.kind == "finite" and words:
        if words[0] in HAVE:
            return untokenized(["have" if several else "has", *words[1:]])
        if verb_of(words[0]) in lexicon.POSTURES:
            words = [lexicon.participle_of(words[0]), *words[1:]]
        else:
            return untokenized(words)
    return untokenized([be, *words])
