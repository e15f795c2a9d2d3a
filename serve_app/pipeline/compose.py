"""A caption in the making: a first sentence, and what is added to it, written as sentences.

`Composition` is what stands; an `Addition` is one clause that may join it. Both are values: `Composition.plus`
returns a new one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from serve_app.pipeline.clauses import Phrase, split
from serve_app.pipeline.words import NUMBERS, OPPOSITES, claims, content, joined, lemma, sentence, tokens

MEDIA = frozenset(("photo", "picture", "image", "view", "shot", "photograph", "background"))
"""What holds the things and is none of them."""

Kind = Literal["description", "fact", "thing", "sentence", "continuation"]


@dataclass(frozen=True, slots=True)
class Addition:
    """A clause that may join a caption.

    description: a longer name for a thing that was named ("a large dog" for "a dog") · fact: what else is said of such
    a thing ("the dog is in the top left") · thing: something new ("a cup") · sentence: stands by itself ("the sky is
    blue") · continuation: goes on where the first sentence ends (", where the dog is small").
    """

    kind: Kind
    text: str
    """The clause by itself, as it is scored."""
    source: str
    phrase: Phrase
    scored: tuple[Phrase, ...]
    """The clauses that have to pass: of a continuation, all that can stand alone."""

    @property
    def claims(self) -> frozenset[str]:
        return claims(content(self.text))


@dataclass(frozen=True, slots=True)
class Named:
    """A thing that the caption names: as which words, and what is said of it."""

    phrase: Phrase
    said: frozenset[str]


@dataclass(frozen=True, slots=True)
class Composition:
    """`first` has no full stop; `facts` are kept together by thing, in the order of their coming."""

    first: str
    additions: tuple[Addition, ...] = ()

    def plus(self, addition: Addition) -> Composition:
        return replace(self, additions=(*self.additions, addition))

    def without(self, addition: Addition) -> Composition:
        return replace(self, additions=tuple(other for other in self.additions if other is not addition))

    @property
    def prompt(self) -> str:
        """The first sentence as the model wrote it, with what continues it: what a prompt shows."""
        return self.first.rstrip(" .") + "".join(
            f"{_mark(addition)}{addition.text}" for addition in self._of("continuation")
        )

    @property
    def text(self) -> str:
        """The caption."""
        first = self.first.rstrip(" .")
        for addition in self._of("description"):
            first = _renamed(first, addition.phrase)
        first += "".join(f"{_mark(addition)}{addition.text}" for addition in self._of("continuation"))
        things = [_with_predicate(addition.phrase) for addition in self._of("thing")]
        sentences = [first]
        if things:
            also = " also" if first else ""
            sentences.append(f"there {'are' if self._of('thing')[0].phrase.plural else 'is'}{also} {joined(things)}")
        sentences += self._facts()
        sentences += [addition.text for addition in self._of("sentence")]
        return " ".join(filter(None, map(sentence, sentences)))

    def named(self) -> dict[str, Named]:
        """The things that the caption names, by the lemma of their noun."""
        return _named([*split(self.first), *(addition.phrase for addition in self.additions)])

    def _of(self, kind: Kind) -> list[Addition]:
        return [addition for addition in self.additions if addition.kind == kind]

    def _facts(self) -> list[str]:
        names = self.named()
        by_thing: dict[str, list[Phrase]] = {}
        for addition in self._of("fact"):
            by_thing.setdefault(addition.phrase.head, []).append(addition.phrase)
        sentences = []
        for head, facts in by_thing.items():
            plural = names[head].phrase.plural if head in names else facts[0].plural
            subject = f"the {(names[head].phrase if head in names else facts[0]).noun.removeprefix('the ')}"
            being = [" ".join(fact.predicate) for fact in facts if fact.predicate[0] != "with"]
            having = [" ".join(fact.predicate[1:]) for fact in facts if fact.predicate[0] == "with"]
            if being:
                sentences.append(f"{subject} {'are' if plural else 'is'} {joined(being)}")
            if having:
                sentences.append(f"{subject} {'have' if plural else 'has'} {joined(having)}")
        return sentences


def additions(phrases: Iterable[Phrase], source: str, to: Composition) -> list[Addition]:
    """What the phrases could add to a caption: only what is new, contradicts nothing and can stand alone."""
    names, said = to.named(), content(to.text)
    found: list[Addition] = []
    for phrase in phrases:
        if phrase.leans or not phrase.subject:
            continue
        known = names.get(phrase.head)
        if known is None:
            found += _of_unknown(phrase, source, said)
        elif _agrees(phrase, known.phrase):
            found += _of_known(phrase, source, known, names)
    return found


def continuation(text: str, source: str, to: Composition) -> Addition | None:
    """A continuation of the first sentence as one addition, when it says something new."""
    text = text.strip(" .;:")
    if not claims(content(text)) - claims(content(to.text)):
        return None
    phrases, names = split(text), to.named()
    if any(phrase.head in names and _contradicts(phrase, names[phrase.head]) for phrase in phrases):
        return None
    scored = tuple(phrase for phrase in phrases if not phrase.leans and phrase.subject and phrase.predicate)
    # Where no clause can stand alone, the whole has to pass.
    words = tuple(word.lower() for word in tokens(text.lstrip(" ,")))
    return Addition("continuation", text, source, Phrase((), "", ()), scored or (Phrase((), "", words),))


def _of_unknown(phrase: Phrase, source: str, said: frozenset[str]) -> list[Addition]:
    # A thing that the caption mentions in passing ("with a white toilet") is not there "also".
    if phrase.head in said or phrase.head in MEDIA or not phrase.content - said:
        return []
    if phrase.finite or phrase.verb:
        return [Addition("sentence", phrase.text, source, phrase, (phrase,))] if phrase.predicate else []
    if phrase.definite:
        return []
    forms = (phrase, phrase.bare) if phrase.predicate else (phrase,)
    return [Addition("thing", form.text, source, form, (form,)) for form in forms]


def _of_known(phrase: Phrase, source: str, known: Named, names: Mapping[str, Named]) -> list[Addition]:
    found = []
    name = replace(phrase, verb="", predicate=())
    longer = len(phrase.subject) > len(known.phrase.subject) and known.phrase.content - {phrase.head} <= name.content
    if (
        not phrase.definite
        and not known.phrase.definite
        and longer
        and name.content - known.said
        and not _two(phrase, names)
    ):
        found.append(Addition("description", name.text, source, name, (name,)))
    if _contradicts(phrase, known):
        return []
    if phrase.predicate[:1] == ("with",) and phrase.predicate[-1] in MEDIA:
        return found  # "with trees in the background": a place in the picture, nothing that the thing has
    if not phrase.finite and claims(content(" ".join(phrase.predicate))) - claims(known.said):
        noun = ("the", *known.phrase.subject[1:]) if "of" in known.phrase.subject else tuple(known.phrase.noun.split())
        fact = Phrase(noun, "are" if known.phrase.plural else "is", phrase.predicate)
        scored = phrase if phrase.verb else Phrase(known.phrase.subject, "", phrase.predicate)
        found.append(Addition("fact", scored.text, source, fact, (scored,)))
    return found


def _two(phrase: Phrase, names: Mapping[str, Named]) -> bool:
    """Whether the subject joins a thing that the caption names to another: "a man and woman"."""
    pairs = zip(phrase.subject, phrase.subject[1:], strict=False)
    return any(following == "and" and lemma(word) in names for word, following in pairs)


def _contradicts(phrase: Phrase, known: Named) -> bool:
    """Whether it says the opposite of what was said of the thing: "on the right side" after "in the top left"."""
    words = {lemma(word) for word in (*phrase.subject[1:], *phrase.predicate)}
    opposites = {opposite for word in words for opposite in OPPOSITES.get(word, ())}
    return bool((opposites - words) & known.said)


def _agrees(phrase: Phrase, known: Phrase) -> bool:
    """Whether both can speak of the same thing: not "a dog" and "two dogs"."""
    if phrase.definite or known.definite:
        return True
    return phrase.plural == known.plural and (NUMBERS & {*phrase.subject}) == (NUMBERS & {*known.subject})


def _named(phrases: Sequence[Phrase]) -> dict[str, Named]:
    """What a place says at the end of a list ("a cat and a dog on the grass") is said of the whole list."""
    names: dict[str, Named] = {}
    listed: list[str] = []
    for phrase in phrases:
        if not phrase.head:
            continue
        before = names.get(phrase.head)
        said = phrase.content | (before.said if before else frozenset())
        name = phrase if before is None or len(phrase.subject) > len(before.phrase.subject) else before.phrase
        names[phrase.head] = Named(replace(name, verb="", predicate=()), said)
        if not phrase.predicate:
            listed.append(phrase.head)
            continue
        shared = content(" ".join(phrase.predicate))
        for head in listed:
            names[head] = replace(names[head], said=names[head].said | shared)
        listed = []
    return names


def _renamed(text: str, name: Phrase) -> str:
    """The text with the first mention of the thing under its longer name."""
    old = next((phrase for phrase in split(text) if phrase.head == name.head), None)
    if old is None:
        return text
    return re.sub(rf"\b{re.escape(old.name)}\b", name.name, text, count=1, flags=re.IGNORECASE)


def _with_predicate(phrase: Phrase) -> str:
    return " ".join([*phrase.subject, *phrase.predicate])


def _mark(addition: Addition) -> str:
    return "" if addition.text[:1] == "," else " " if addition.text.split(" ", 1)[0] in _BARE else ", "


_BARE = frozenset(("on", "in", "under", "before", "at"))
"""A continuation that is a place follows without a comma."""
