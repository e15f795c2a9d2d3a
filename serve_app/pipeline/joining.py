"""Statements of other texts join a caption: each where people would put it, each only when it is new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from serve_app.pipeline.composition import Also, Composition
from serve_app.pipeline.language import comparing, grammar, lexicon
from serve_app.pipeline.language.grammar import DETERMINERS, MEDIA
from serve_app.pipeline.language.kinds import WHERE, concept, content, kind_of_adjective, kinds_of
from serve_app.pipeline.language.reading import Piece, Reading, Statement
from serve_app.pipeline.language.writing import Word
from serve_app.pipeline.placing import Insert, Placing
from serve_app.pipeline.questions import UNCOUNTED
from serve_app.pipeline.scores import Candidate
from serve_app.pipeline.wording import Wording

MAX_ATTRIBUTES = 3
SOMEBODY = frozenset(("somebody", "someone", "anybody", "anyone"))


class Joining:
    """Lets statements join a composition."""

    def __init__(self, caption: Composition) -> None:
        self.caption = caption
        self.wording = Wording(caption)
        self.placing = Placing(caption)
        self._texts: list[frozenset[str]] = [caption.reading.content]

    def grow(self, others: Sequence[Candidate]) -> None:
        """Lets every statement of the others join that is supported, new and contradicts nothing."""
        self._texts += [other.reading.content for other in others]
        proposals: list[tuple[float, int, int, Candidate]] = []
        for place, other in enumerate(others):
            if other is self.caption.base:
                continue
            for number, statement in enumerate(other.reading.statements):
                if self.caption.scores.passes(statement) and statement.text not in self.caption.refused:
                    proposals.append((-self.caption.scores.of(statement), place, number, other))
        for _, _, number, other in sorted(proposals, key=lambda each: each[:3]):
            self._join(other, number)

    def _join(self, other: Candidate, number: int) -> None:
        statement = other.reading.statements[number]
        everything = self.caption.pairing(other.reading)
        pairing = {theirs: ours for theirs, ours in everything.items() if self.caption.is_written(ours)}
        if statement.kind == "attribute":
            self._describe(other, number, pairing)
        elif statement.kind == "piece":
            self._tell(other, number, pairing)
        elif statement.kind == "thing":
            self._name(other, number, pairing)
        elif statement.kind == "count" and other.source.kind == "answer":
            self._number(other, number, pairing)

    def _describe(self, other: Candidate, number: int, pairing: dict[int, int]) -> None:
        """Lets a describing word join its thing: "a dog" becomes "a brown dog"."""
        statement = other.reading.statements[number]
        ours = pairing.get(statement.about[0])
        if ours is None:
            self._answer_about_also(other, number)
            return
        if not self._may_describe(other, statement.about[0], ours):
            return
        words = other.reading.said_of(statement.spans[0])
        present = self.caption.attributes_of(ours)
        said = self.caption.said_of.get(ours, frozenset()) | content(word for each in present for word in each)
        told = {kind_of_adjective(word) for word in words} - {None}
        if not told or len(present) >= MAX_ATTRIBUTES or not comparing.news(statement.claims, said):
            return
        taken = {kind_of_adjective(word) for each in present for word in each}
        head = self.caption.reading.things[ours].head
        if "person" in kinds_of(head) | {head} and told & {"size", "age"} and taken & {"size", "age"}:
            return  # "a little young girl"
        against = next((rival for said, rival in self.caption.told_of(ours) if comparing.clash(words, said)), None)
        if against is not None:
            self.caption.contest(statement, against)
        if told & taken or against is not None:
            return
        mark = self.caption.mark(other, number)
        self.caption.described.setdefault(ours, []).append(tuple(Word(word, mark) for word in words))
        self.caption.said |= statement.claims

    def _answer_about_also(self, other: Candidate, number: int) -> None:
        """Lets an answer join a thing that is "also" there: "a lamp" becomes "a red lamp on the table"."""
        statement = other.reading.statements[number]
        head = other.reading.things[statement.about[0]].head
        found = [place for place, also in enumerate(self.caption.things) if also.head == head]
        words = self._extract(other, number) if statement.kind == "piece" else []
        if other.source.kind != "answer" or len(found) != 1:
            return
        also = self.caption.things[found[0]]
        marks = {word.mark.statement.kind for word in also.words if word.mark is not None}
        if statement.kind in marks:
            return
        if statement.kind == "attribute":
            mark = self.caption.mark(other, number)
            at = int(also.words[0].text.lower() in DETERMINERS)
            described = [Word(word, mark) for word in other.reading.said_of(statement.spans[0])]
            said = (*also.words[:at], *described, *also.words[at:])
            self.caption.things[found[0]] = replace(also, words=said)
        elif words:
            self.caption.things[found[0]] = replace(also, words=(*also.words, *words))
        self.caption.said |= statement.claims

    def _number(self, other: Candidate, number: int, pairing: dict[int, int]) -> None:
        """Lets a number join things of which the caption only says that there are several."""
        statement, reading = other.reading.statements[number], self.caption.reading
        ours = pairing.get(statement.about[0])
        if ours is None or ours in self.caption.counted or not reading.things[ours].plural:
            return
        quantity = reading.things[ours].quantity
        words = other.reading.said_of(statement.spans[0])
        if len(words) == 1 and words != ("dozen",) and set(reading.said_of(quantity)) <= UNCOUNTED:
            self.caption.hidden.update(range(*quantity))
            self.caption.counted[ours] = Word(words[0], self.caption.mark(other, number))

    def _may_describe(self, other: Candidate, theirs: int, ours: int) -> bool:
        """Whether what describes a thing in its text describes the caption's, too: not if the text has two of that
        name, and not a table if it speaks of furniture."""
        first, second = other.reading.things[theirs], self.caption.reading.things[ours]
        several = [each.head for each in other.reading.things].count(first.head) > 1
        if several or second.head in WHERE or first.plural != second.plural:
            return False
        return first.head == second.head or comparing.is_of_a_top_kind(second.head)

    def _tell(self, other: Candidate, number: int, pairing: dict[int, int]) -> None:
        """Lets a piece join: in the first sentence if it is said of its subject, else in a sentence of its own."""
        reading = other.reading
        statement = reading.statements[number]
        assert statement.piece is not None
        piece = reading.pieces[statement.piece]
        if piece.kind in ("rest", "noun", "infinitive") or piece.leaning or not statement.about:
            return
        about = [pairing.get(each) for each in statement.about]
        if len(about) == 1 and about[0] is None:
            self._tell_alone(other, statement)
            self._answer_about_also(other, number)
            return
        if None in about:
            return
        target = tuple(each for each in about if each is not None)
        things = self.caption.reading.things
        if any(
            reading.things[theirs].plural != things[each].plural
            for theirs, each in zip(statement.about, target, strict=True)
        ):
            return
        of_it = frozenset().union(*(self.caption.said_of.get(each, frozenset()) for each in target))
        claims = statement.claims
        if piece.kind == "place":  # a tennis court is new although tennis was spoken of
            claims -= (
                frozenset().union(*(content(reading.name(each)[:-1]) for each in piece.objects)) & self.caption.said
            )
        if not comparing.news(claims, frozenset(self.caption.said), of_it) or self._is_unfit(other, statement, piece):
            return
        if self._contradicted(reading, statement, piece, target):
            return
        words = self._extract(other, number)
        if not words:
            return
        insert = Insert(piece, reading, tuple(words))
        main = self.caption.main_clause()
        if main is not None and set(target) == set(self.caption.meant(main)):
            joined = self.placing.to_main(main, insert)
        else:
            joined = len(target) == 1 and self.placing.to_fact(target[0], insert)
        if joined:
            self.caption.said |= statement.claims
            self.caption.heads |= {reading.things[each].head for each in piece.objects}
            for each in target:
                self.caption.said_of[each] = self.caption.said_of.get(each, frozenset()) | statement.claims

    def _tell_alone(self, other: Candidate, statement: Statement) -> None:
        """A sentence about what everybody knows to be there: "The sky is blue."."""
        reading = other.reading
        (theirs,) = statement.about
        thing = reading.things[theirs]
        clause = next((each for each in reading.clauses if theirs in each.subjects), None)
        if clause is None or not clause.verb or clause.subjects != (theirs,) or len(clause.pieces) != 1:
            return
        somebody = other.source.kind == "answer" and thing.head in SOMEBODY
        if not somebody and reading.words[thing.span[0]] != "the":
            return
        if thing.head in self.caption.heads or thing.head in MEDIA:
            return
        if comparing.is_said(thing.head, frozenset(self.caption.said)):
            return
        owners = {owner for owner in reading.owners[clause.span[0] : clause.span[1]] if owner is not None}
        if not all(self.caption.scores.passes(reading.statements[owner]) for owner in owners):
            return
        begin = thing.span[0]
        words = [
            Word(self.wording.token(other, at), self.caption.mark(other, reading.owners[at]))
            for at in range(begin, clause.span[1])
        ]
        self.caption.alone.append(tuple(words))
        self.caption.heads.add(thing.head)
        self.caption.said |= statement.words

    def _is_unfit(self, other: Candidate, statement: Statement, piece: Piece) -> bool:
        """Whether a piece can't be taken out of its text, or is another reading of what the caption says."""
        reading = other.reading
        words = [reading.words[reading.things[number].noun[1] - 1] for number in piece.objects]
        heads = [reading.things[number].head for number in piece.objects]
        first = reading.words[piece.span[0]]
        if first in grammar.NEGATIONS or (piece.kind == "place" and first in grammar.MOTION):
            return True
        if "one" in words or "ones" in words or (heads and all(head in MEDIA for head in heads)):
            return True
        definite = any(reading.words[reading.things[number].span[0]] == "the" for number in piece.objects)
        if piece.kind == "with" and definite:
            return True
        whole_list = len(heads) > 1 and sum(each.piece == statement.piece for each in reading.statements) < 2
        if whole_list and any(comparing.is_said(head, frozenset(self.caption.said)) for head in heads):
            return True
        if any(self._is_another_reading(head) for head in heads):
            return True
        if piece.kind == "place" and not WHERE & {*heads} and all(head in self.caption.heads for head in heads):
            return True
        return piece.kind in ("verb", "finite") and self._is_done_already(first, piece)

    def _is_another_reading(self, head: str) -> bool:
        """Whether a thing may be what the caption calls otherwise: no text names both."""
        rivals = [each for each in self.caption.heads if comparing.rivals(head, each)]
        return any(not any({head, each} <= text for text in self._texts) for each in rivals)

    def _is_done_already(self, first: str, piece: Piece) -> bool:
        """Whether a verb says again what the caption says of its subject, or what comes before that."""
        verb = concept(lexicon.verb_of(first))
        if verb in lexicon.ADDING:
            return False
        if piece.objects and verb not in lexicon.LIGHT and self._is_another_act(verb):
            return True
        doing = self.caption.said & lexicon.POSTURES
        acts = any(each.kind in ("verb", "finite") for each in self.caption.reading.pieces)
        begun = not lexicon.BEGINNING.isdisjoint(self.caption.said)
        if verb in self.caption.said or (acts and (begun or verb in lexicon.BEGINNING)):
            return True
        return bool(doing) and verb in lexicon.POSTURES and not piece.objects

    def _is_another_act(self, verb: str) -> bool:
        """Whether somebody does something with something already, and no text says that both are done."""
        reading = self.caption.reading
        acts = {
            concept(lexicon.verb_of(reading.words[piece.span[0]]))
            for piece in reading.pieces
            if piece.kind in ("verb", "finite") and piece.objects
        }
        rivals = acts - lexicon.LIGHT - lexicon.POSTURES
        return any(not any({verb, act} <= text for text in self._texts) for act in rivals)

    def _contradicted(self, other: Reading, statement: Statement, piece: Piece, target: Sequence[int]) -> bool:
        """Whether the caption says the contrary of one of these things; notes what it says."""
        words, quality = other.said_of(statement.spans[0]), comparing.quality(other, piece)
        for number in target:
            for said, rival in self.caption.told_of(number):
                if (quality and comparing.clash(quality, said)) or comparing.opposed(words, said):
                    self.caption.contest(statement, rival)
                    return True
        return False

    def _extract(self, other: Candidate, number: int) -> list[Word]:
        """A statement's words in its text, with the pieces that hang on its objects."""
        reading = other.reading
        statement = reading.statements[number]
        assert statement.piece is not None
        piece = reading.pieces[statement.piece]
        start, end = statement.spans[0]
        if start < piece.span[0]:
            start = piece.span[0]
        words = self.wording.words(other, (start, end))
        siblings = other.reading.of_piece.get(statement.piece, [])
        if len(siblings) > 1 and siblings.index(number) > 0:
            mark = self.caption.mark(other, number)
            first = reading.things[piece.objects[0]].span[0]
            words = [Word(word, mark) for word in reading.words[piece.span[0] : first]] + words
        for further in statement.spans[1:]:
            words += self.wording.words(other, further)
        following = statement.piece + 1
        last = statement.spans[-1][1]
        while following < len(reading.pieces):
            hanging = reading.pieces[following]
            mine = other.reading.of_piece.get(following, [])
            if hanging.lead != last or not set(hanging.subjects) & set(piece.objects) or not mine:
                break
            if not all(self.caption.scores.passes(reading.statements[n]) for n in mine) or hanging.kind == "rest":
                break
            mark = self.caption.mark(other, mine[0])
            words += [Word(word, mark) for word in reading.words[hanging.lead : hanging.span[0]]]
            words += self.wording.piece(other, following)
            last = hanging.span[1]
            following += 1
        return words

    def _name(self, other: Candidate, number: int, pairing: dict[int, int]) -> None:
        """Lets a thing join that the caption has not: "There is also …"."""
        reading = other.reading
        statement = reading.statements[number]
        theirs = statement.about[0]
        thing = reading.things[theirs]
        said = frozenset(self.caption.said)
        alone = not pairing and other.source.kind != "answer"
        if theirs in pairing or alone or thing.pronoun or thing.head in MEDIA or thing.head in self.caption.heads:
            return
        if reading.words[thing.span[0]] == "the" or comparing.is_said(thing.head, said) or self._is_member(thing.head):
            return
        if not comparing.news(statement.words, said) or self._is_another_reading(thing.head):
            return
        if reading.main == theirs and self._is_the_main_thing(other, theirs, pairing):
            return
        words = self.wording.thing(other, theirs)
        words += self._own_pieces(other, theirs)
        self.caption.things.append(Also(statement.text.startswith("there are"), tuple(words), thing.head))
        self.caption.heads.add(thing.head)
        self.caption.said |= statement.words | content(word.text.lower() for word in words)

    def _is_member(self, head: str) -> bool:
        """Whether a thing is one of several that the caption names: a woman of "two people"."""
        things = enumerate(self.caption.reading.things)
        groups = {thing.head for number, thing in things if thing.plural and self.caption.is_written(number)}
        return bool(groups & kinds_of(head))

    def _is_the_main_thing(self, other: Candidate, theirs: int, pairing: dict[int, int]) -> bool:
        """Whether the main thing of another text is what the caption is about, under a name of its own."""
        reading, base = other.reading, self.caption.reading
        if base.main is None or base.main in pairing.values():
            return False
        told = [each for each in reading.statements if each.kind == "piece" and theirs in each.about]
        said = frozenset(self.caption.said)
        nothing_new = bool(told) and not any(comparing.news(each.claims, said) for each in told)
        return nothing_new or comparing.alike(reading.things[theirs], base.things[base.main])

    def _own_pieces(self, other: Candidate, theirs: int) -> list[Word]:
        """The first piece that is said of a thing alone, when it is supported and new."""
        reading = other.reading
        for place, statement in enumerate(reading.statements):
            if statement.kind != "piece" or statement.about != (theirs,) or statement.piece is None:
                continue
            piece = reading.pieces[statement.piece]
            stands = piece.kind in ("place", "verb", "with") and not piece.leaning
            new = comparing.news(statement.claims, frozenset(self.caption.said))
            return self._extract(other, place) if stands and new and self.caption.scores.passes(statement) else []
        return []
