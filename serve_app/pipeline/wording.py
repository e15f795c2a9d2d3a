"""Noun phrases and pieces of a composition as words, each with what was weighed for it."""

from __future__ import annotations

from serve_app.pipeline.composition import Composition
from serve_app.pipeline.language import lexicon
from serve_app.pipeline.language.grammar import CLOTHING, MASS, ONE_BY_ONE
from serve_app.pipeline.language.kinds import kinds_of, order_of
from serve_app.pipeline.language.names import NAMES
from serve_app.pipeline.language.reading import Reading, Span
from serve_app.pipeline.language.writing import Word, listed
from serve_app.pipeline.scores import Candidate

_ONE_BY_ONE = frozenset(("person", "animal", "vehicle", "furniture", "container"))
"""Kinds of things of which one has an article."""


class Wording:
    """Writes parts of texts, as far as the composition keeps them."""

    def __init__(self, caption: Composition) -> None:
        self.caption = caption

    def token(self, candidate: Candidate, at: int) -> str:
        """A token as it is written within a sentence: capitals that only begin a text go."""
        token = candidate.reading.tokens[at]
        if at == 0 or candidate.reading.tokens[at - 1] in ".!?":
            return token.lower() if token.istitle() or len(token) == 1 else token
        return token

    def one(self, candidate: Candidate, at: int, owner: int | None) -> list[Word]:
        if candidate is self.caption.base and at in self.caption.hidden:
            return []
        return [Word(self.token(candidate, at), self.caption.mark(candidate, owner))]

    def words(self, candidate: Candidate, span: Span) -> list[Word]:
        """The words of a span, its things without the attributes that were dropped."""
        reading, owners = candidate.reading, candidate.reading.owners
        starts = {
            thing.span[0]: number
            for number, thing in reversed(list(enumerate(reading.things)))
            if span[0] <= thing.span[0] and thing.span[1] <= span[1]
        }
        for number, thing in enumerate(reading.things):  # of things that begin at one place the longest
            if (
                thing.span[0] in starts
                and thing.span[1] > reading.things[starts[thing.span[0]]].span[1]
                and thing.span[1] <= span[1]
            ):
                starts[thing.span[0]] = number
        words: list[Word] = []
        at = span[0]
        while at < span[1]:
            if at in starts:
                words += self.thing(candidate, starts[at])
                at = reading.things[starts[at]].span[1]
                continue
            words += self.one(candidate, at, owners[at])
            at += 1
        return words

    def piece(self, candidate: Candidate, number: int) -> list[Word]:
        """The words of a piece, without what binds it; a list of objects without those that were dropped."""
        reading = candidate.reading
        piece = reading.pieces[number]
        mine = candidate.reading.of_piece.get(number, [])
        more = self.caption.listed.get(number, []) if candidate is self.caption.base else []
        if len(mine) < 2 and not more:
            return self.words(candidate, piece.span)
        kept = [n for n in mine if self.caption.keeps(candidate, n)]
        firsts = [reading.things[each].span[0] for each in piece.objects]
        prefix = self.words(candidate, (piece.span[0], firsts[0]))
        if kept:
            prefix = [Word(word.text, self.caption.mark(candidate, kept[0])) for word in prefix]
        items: list[list[Word]] = []
        for place, n in enumerate(mine):
            if n in kept:
                start = firsts[place] if len(mine) > 1 else firsts[0]
                end = reading.statements[n].spans[0][1]
                said = self.words(candidate, (start, end))
                bare = place and said and self._leans_on_article(reading, piece.objects[0], piece.objects[place])
                items.append([Word("a", said[0].mark), *said] if bare and not items else said)
        words = prefix + listed([*items, *more])
        for start, end in reading.statements[mine[-1]].spans[1:]:
            words += self.words(candidate, (start, end))
        return words

    def thing(self, candidate: Candidate, number: int, subject: bool = False) -> list[Word]:
        """A noun phrase with its own describing words and those that joined it; a bare one gets its article if it
        is a `subject` or something that comes one by one."""
        thing = candidate.reading.things[number]
        quantity = self._quantity(candidate, number)
        noun = self._noun(candidate, number)
        if not quantity and not thing.pronoun and self._lacks_article(candidate.reading, number, subject):
            quantity = [Word("a", noun[0].mark if noun else None)]
        words = [*quantity, *self._description(candidate, number), *noun]
        end = thing.noun[1]
        if thing.complement is not None:
            inner = candidate.reading.things[thing.complement]
            words += self._tokens(candidate, end, inner.span[0])
            words += self.thing(candidate, thing.complement)
            end = inner.span[1]
        return words + self._tokens(candidate, end, thing.span[1])

    def _tokens(self, candidate: Candidate, start: int, end: int) -> list[Word]:
        owners = candidate.reading.owners
        return [word for at in range(start, end) for word in self.one(candidate, at, owners[at])]

    def _quantity(self, candidate: Candidate, number: int) -> list[Word]:
        reading = candidate.reading
        words: list[Word] = []
        for at in range(*reading.things[number].quantity):
            owner = reading.owners[at]
            counts = owner is not None and reading.statements[owner].kind == "count"
            if self.caption.keeps(candidate, owner) or not counts:
                words += self.one(candidate, at, owner)
        if candidate is self.caption.base and number in self.caption.counted:
            words.append(self.caption.counted[number])
        return words

    def _description(self, candidate: Candidate, number: int) -> list[Word]:
        """The describing words in English order: size before colour before material."""
        owners = candidate.reading.owners
        found: list[list[Word]] = []
        for start, end in candidate.reading.things[number].attributes:
            if self.caption.keeps(candidate, owners[start]):
                found.append(self._tokens(candidate, start, end))
        for extra in self.caption.described.get(number, ()) if candidate is self.caption.base else ():
            order = order_of(extra[-1].text.lower())
            later = (at for at, said in enumerate(found) if said and order_of(said[-1].text.lower()) > order)
            found.insert(next(later, len(found)), list(extra))
        return [word for said in found for word in said]

    def _noun(self, candidate: Candidate, number: int) -> list[Word]:
        if candidate is self.caption.base and number in self.caption.renamed:
            return list(self.caption.renamed[number])
        return self._tokens(candidate, *candidate.reading.things[number].noun)

    @staticmethod
    def _leans_on_article(reading: Reading, first: int, later: int) -> bool:
        """Whether the first thing of a list has the article of a later one: "a net and wooden dock"."""
        begins, follows = reading.things[first], reading.things[later]
        article = reading.words[slice(*begins.quantity)] in (("a",), ("an",))
        bare = follows.quantity[0] == follows.quantity[1] and not follows.plural and not follows.pronoun
        return article and bare and reading.words[follows.noun[1] - 1] not in MASS

    @staticmethod
    def _lacks_article(reading: Reading, number: int, subject: bool) -> bool:
        thing = reading.things[number]
        first, last = thing.noun
        name = reading.words[last - 1]
        if thing.plural or name in MASS or reading.words[first:last] in NAMES.spelled or name.endswith("ing"):
            return False
        if not name.isalpha() or (first > 0 and reading.tokens[first][:1].isupper()):
            return False
        if subject:
            return lexicon.is_known(name) and "NOUN" in lexicon.parts_of_speech(name)
        if thing.span[0] and reading.words[thing.span[0] - 1] in ("and", "or", ","):
            return False  # "a bride and groom"
        return name in CLOTHING | ONE_BY_ONE or bool(kinds_of(thing.head) & _ONE_BY_ONE)
