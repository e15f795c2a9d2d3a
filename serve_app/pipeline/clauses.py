"""Splitting a caption into clauses that can be true or false by themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serve_app.pipeline.words import (
    BE,
    CONNECTIVES,
    DETERMINERS,
    LEANING,
    PREPOSITIONS,
    content,
    is_participle,
    is_plural,
    lemma,
    tokens,
    untokenized,
    words_of,
)

_STOPS = frozenset(".;:!?")
_QUANTITIES = words_of("group pair couple bunch lot lots number set row pile piece herd flock crowd")
_OFTEN_NOUNS = words_of("sleeping fishing swimming cutting washing shopping")
"""Nouns or participles, as what follows says: "a cutting board", "a man cutting a cake"."""
_NOUNS_IN_ED = words_of("bed shed sled seed weed reed speed moped")
_OPENERS = DETERMINERS - {"that", "both", "no", "all", "each", "every"}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A clause in parts: "two apples" + "in the top left", "the dog" + "is" + "small". Lower case.

    `subject` is empty for a place alone ("on the green grass"); `verb` is empty where none was written; another verb
    than a form of be belongs to the predicate, and `finite` says so.
    """

    subject: tuple[str, ...]
    verb: str
    predicate: tuple[str, ...]
    finite: bool = False

    @property
    def text(self) -> str:
        return untokenized([*self.subject, *([self.verb] if self.verb else []), *self.predicate])

    @property
    def head(self) -> str:
        """The lemma of the noun that the clause is about; empty for a place."""
        words = list(self.subject)
        if "of" in words[1:]:
            cut = words.index("of", 1)
            words = words[cut + 1 :] if words[cut - 1] in _QUANTITIES and words[cut + 1 :] else words[:cut]
        return lemma(words[-1]) if words else ""

    @property
    def noun(self) -> str:
        """The subject with "the" for its determiner and without what describes it: "the apples"."""
        words = self.subject[: self.subject.index("of")] if "of" in self.subject[1:] else self.subject
        return f"the {words[-1]}"

    @property
    def name(self) -> str:
        """The subject as written."""
        return untokenized(self.subject)

    @property
    def definite(self) -> bool:
        return self.subject[:1] == ("the",)

    @property
    def plural(self) -> bool:
        return self.verb in ("are", "were") or (not self.verb and bool(self.subject) and is_plural(self.subject))

    @property
    def bare(self) -> Phrase:
        """The thing alone, without what is said of it."""
        return Phrase(self.subject, "", ())

    @property
    def content(self) -> frozenset[str]:
        return content(self.text)

    @property
    def leans(self) -> bool:
        """Whether it lacks what it speaks of outside of its text."""
        return not LEANING.isdisjoint({*self.subject[:-1], *self.predicate} - {"that"})


def split(text: str) -> list[Phrase]:
    """The clauses of a text in order. What several subjects share ("the cat and the dog are small") each gets."""
    phrases = []
    for segment in _segments([word.lower() for word in tokens(text)]):
        phrase = parse(segment)
        if phrase is not None:
            phrases.append(phrase)
    return _shared(phrases)


def parse(words: Sequence[str]) -> Phrase | None:
    """One segment as a phrase; None where it has no form that is known."""
    words = _without_opening(list(words))
    if not words:
        return None
    if words[0] in PREPOSITIONS:
        return Phrase((), "", tuple(words)) if len(words) > 1 else None
    if words[0] not in DETERMINERS:
        return None
    end = 1
    while end < len(words) and not _begins_predicate(words, end):
        end += 1
    subject, rest = words[:end], words[end:]
    if len(subject) < 2:
        return None
    if rest and rest[0] in BE:
        rest_words = tuple(word for word in rest[1:] if word not in ("both", "also"))
        return Phrase(tuple(subject), rest[0], rest_words) if rest_words else Phrase(tuple(subject), "", ())
    if rest and rest[0] in ("that", "which", "who"):
        rest = rest[1:]
        if rest and rest[0] in BE:
            return Phrase(tuple(subject), "", tuple(rest[1:])) if rest[1:] else None
        return None
    if rest and rest[0] in DETERMINERS:
        return Phrase(tuple(subject[:-1]), "", (subject[-1], *rest), finite=True) if len(subject) > 2 else None
    if (at := _main_verb(rest)) and rest[at + 1 :]:
        # "a man in a blue shirt is cutting a cake": what stands before the verb only says which man.
        return Phrase(tuple(subject), rest[at], tuple(rest[at + 1 :]))
    if _is_finite(subject, rest):
        return Phrase(tuple(subject[:-1]), "", (subject[-1], *rest), finite=True)
    return Phrase(tuple(subject), "", tuple(rest))


def _main_verb(rest: Sequence[str]) -> int:
    """Where a form of be stands that is none of a relative clause ("that is on a leash"); 0 where none does."""
    relative = ("that", "which", "who")
    return next((at for at, word in enumerate(rest) if word in BE and rest[at - 1] not in relative), 0)


def _is_finite(subject: Sequence[str], rest: Sequence[str]) -> bool:
    """Whether the subject's last word is a verb: "a dog sits on a bench"."""
    single = subject[0] in ("a", "an") and len(subject) > 2 and "of" not in subject
    return single and bool(rest) and rest[0] in PREPOSITIONS and is_plural(("the", subject[-1]))


def _begins_predicate(words: Sequence[str], place: int) -> bool:
    word = words[place]
    if word == "of":
        return False
    if word in ("that", "which", "who"):
        return True
    if word in BE or word in PREPOSITIONS:
        return True
    if word in DETERMINERS:
        return words[place - 1] != "of"
    if place == 1:
        return False
    following = words[place + 1] if place + 1 < len(words) else ""
    if following == "of":  # "a drawing of"
        return False
    if is_participle(word):
        return True
    if word in _OFTEN_NOUNS:
        return not following or following in PREPOSITIONS | DETERMINERS
    return word.endswith("ed") and word not in _NOUNS_IN_ED and following in PREPOSITIONS


def _without_opening(words: list[str]) -> list[str]:
    if words[:2] in (["there", "is"], ["there", "are"]):
        words = words[2:]
    while words and words[0] in CONNECTIVES | {"together", "also", "then"} and words[0] != "with":
        words = words[1:]
    if words[:1] == ["with"] and words[1:2] and words[1] in DETERMINERS:
        words = words[1:]
    return words


def _segments(words: Sequence[str]) -> Iterator[list[str]]:
    """Stretches between the marks and connectives that a new clause follows."""
    segment: list[str] = []
    for place, word in enumerate(words):
        following = words[place + 1 :]
        if word in _STOPS or _separates(word, segment, following):
            if segment:
                yield segment
            segment = []
        elif word == "," or (word in ("and", "plus") and not segment):
            continue
        else:
            segment.append(word)
    if segment:
        yield segment


def _separates(word: str, before: Sequence[str], following: Sequence[str]) -> bool:
    if not following:
        return word == ","
    if word in ("while", "where"):
        return True
    if word == ",":
        return following[0] in _OPENERS | PREPOSITIONS | CONNECTIVES | {"together", "there"}
    if word in ("and", "plus", "but"):
        return (following[0] in _OPENERS and not _in_possession(before, following)) or following[0] == "there"
    return word in ("together", "with") and not before


def _in_possession(before: Sequence[str], following: Sequence[str]) -> bool:
    """Whether "and" goes on with what a thing has: "a man with glasses and a beard standing next to a cake"."""
    prepositions = [word for word in before if word in PREPOSITIONS]
    verb = any(is_participle(word) for word in before)
    goes_on = next((word for word in following if is_participle(word) or word in ("and", ",")), "")
    return bool(prepositions) and prepositions[-1] == "with" and not verb and is_participle(goes_on)


def _shared(phrases: Sequence[Phrase]) -> list[Phrase]:
    """ "the cat" + "the dog are small" → "the cat is small" + "the dog is small"."""
    found: list[Phrase] = []
    for place, phrase in enumerate(phrases):
        verb_of = phrases[place + 1 :]
        partner = next((later for later in verb_of if later.verb or later.predicate), None)
        waits = phrase.definite and not phrase.verb and not phrase.predicate
        if waits and partner is not None and partner.verb in ("are", "were") and partner.definite:
            found.append(Phrase(phrase.subject, _be(phrase.subject), partner.predicate))
        elif phrase.verb in ("are", "were") and found and place and not phrases[place - 1].verb and phrase.definite:
            found.append(Phrase(phrase.subject, _be(phrase.subject), phrase.predicate))
        else:
            found.append(phrase)
    return found


def _be(subject: Sequence[str]) -> str:
    return "are" if is_plural(subject) else "is"
