"""What captioners are known to write although nobody sees it: made-up words, empty openings, loops, cut ends."""

from __future__ import annotations

import re

from serve_app.pipeline.language import lexicon
from serve_app.pipeline.language.grammar import (
    BE,
    CONJUNCTIONS,
    CONNECTIVES,
    DETERMINERS,
    NUMBERS,
    PARTICLES,
    PREPOSITIONS,
    PRONOUNS,
    words_of,
)
from serve_app.pipeline.language.lexicon import (
    article_for,
    is_past_participle,
    is_plural,
    is_present_participle,
    verb_of,
)
from serve_app.pipeline.language.tokens import tokens, untokenized

_MADE_UP = re.compile(
    r"(?P<before>^\s*|\b(?:is|are)\s+)?\b(?:(?P<article>a|an|the)\s+)?araf(?!at\b|ura)\w*(?:\s+looking\b)?\s*(?P<next>[\w-]+)?",
    re.IGNORECASE,
)
_THERE = r"there(?:\s+is|\s+are|'s|’s)\s+(?:also\s+)?"
_SHOWS = r"this\s+(?:image|picture|photo|photograph)\s+(?:show|depict|feature|contain)s?\s+"
_THIS = rf"(?:this|it)\s+is\s+(?=an?\b|the\b)|these\s+are\s+|{_SHOWS}"
_SEE = r"(?:(?:i|you|we)\s+(?:can\s+)?(?:see|think\s+(?:this|it)\s+is)|we\s+are\s+looking\s+at)\s+"
_MEDIUM = r"(?:an?|the)\s+(?:picture|image|photo|photograph|photography|snapshot)\s+(?:of|showing|depicting)\s+"
_OPENING = re.compile(rf"^\s*(?:{_SEE})?(?:{_THERE}|{_THIS})?(?:{_MEDIUM})?", re.IGNORECASE)
_VIEW = re.compile(
    r"^\s*(?:an?|the)\s+(?:view|scene)\s+of\s+(?=an?\b|the\b|\w+s\b)(?!.*\b(?:from|through|out)\b)", re.IGNORECASE
)
_LOST_NUMBER = re.compile(r"\b(the|a|in|of) [-–—] ")
"""What is left of "the 100-meter race" after numbers were taken out."""
_NOTHING = re.compile(rf"^\s*(?:{_THERE})?nothing\b(?!.*\b(?:but|except|besides|than)\b)", re.IGNORECASE)
_STOPS = frozenset(".;:!?")
MAX_LOOP_TOKENS = 12
"""Longest repeated stretch that is looked for."""
_LEADS_ON = (
    (DETERMINERS - NUMBERS - words_of("all both each this that one another other"))
    | PREPOSITIONS
    | CONNECTIVES
    | CONJUNCTIONS
    | {",", "next"}
)
"""Words that something has to follow."""
_PARTICLES = PARTICLES | words_of("nearby inside outside")
_MOVES = words_of(
    "look walk go pass drive fly ride run move come roll sail watch turn light hang dress stand stick take line pull"
)
"""Verbs that end with a particle: "while others look on", "two people walk by"."""


def says_nothing(text: str) -> bool:
    """Whether a text says that nothing is to be seen, or nothing that its captioner knows."""
    return _NOTHING.match(text) is not None


def denoise(text: str) -> str:
    """The text without made-up words, openings such as "there is" or "this is a picture of", loops, and an end that
    leads nowhere."""
    text = _LOST_NUMBER.sub(r"\1 ", text)
    text = _VIEW.sub("", _OPENING.sub("", _MADE_UP.sub(_named, text)))
    kept = _finished(_with_articles(_finished(_without_loops(tokens(text)))))
    while kept and not kept[0][0].isalnum() and kept[0][0] not in "\"'“‘(":
        kept = kept[1:]
    return untokenized(kept)


def _named(match: re.Match[str]) -> str:
    """ "arafed man" stands for "a man"; before a verb there is no noun to save, within a phrase no article to add."""
    before, article, following = match["before"] or "", match["article"], match["next"]
    if following is None:
        return before
    word = following.lower()
    if word in _LEADS_ON | DETERMINERS | BE or is_present_participle(word):
        return before + following
    if article is None and match["before"] is None:
        return following
    if article and article.lower() == "the":
        return f"{before}the {following}"
    return f"{before}{following}" if is_plural(word) else f"{before}{article_for(following)} {following}"


def _without_loops(words: list[str]) -> list[str]:
    """Each stretch that is followed by itself stands once; so does "x and x" and "x, x", until nothing changes."""
    kept = list(words)
    lower = [word.lower() for word in kept]
    place = 0
    while place < len(kept):
        loop = _loop_at(lower, place)
        if loop is None:
            place += 1
            continue
        del kept[loop[0] : loop[1]], lower[loop[0] : loop[1]]
        place = max(0, place - 2 * MAX_LOOP_TOKENS - 2)  # what went may have stood between another loop's halves
    return kept


def _loop_at(words: list[str], place: int) -> tuple[int, int] | None:
    """The tokens that say again what begins at `place`."""
    for length in range(min(MAX_LOOP_TOKENS, (len(words) - place) // 2), 0, -1):
        end = place + length
        gap = 1 if words[end] in (",", "and", "or") else 0
        if gap and words[end] == "," and words[end + 1 : end + 2] in (["and"], ["or"]):
            gap = 2
        if words[place:end] == words[end + gap : end + gap + length] and _is_loop(words, place, length, gap):
            return end, end + gap + length
    return None


def _is_loop(words: list[str], place: int, length: int, gap: int) -> bool:
    """Not if the repeated noun only describes the next one ("a toilet and toilet paper"), nor "it and it"."""
    said = words[place : place + length]
    if all(word in PRONOUNS | PREPOSITIONS | BE | CONNECTIVES for word in said) and gap:
        return False
    if not any(word.isalnum() for word in said):
        return True
    following = words[place + 2 * length + gap : place + 2 * length + gap + 1]
    if gap and following and said[-1] not in DETERMINERS | PREPOSITIONS:
        word = following[0]
        describes = word.isalpha() and word not in _LEADS_ON | BE | PRONOUNS and lexicon.is_nominal(word)
        if describes and not is_present_participle(word) and not is_past_participle(word):
            return lexicon.is_finite_form(word) and "NOUN" not in lexicon.parts_of_speech(word)
    return True


def _with_articles(words: list[str]) -> list[str]:
    """ "an small owl" → "a small owl"; an article before a gap ("sitting on a in front of") goes."""
    found = []
    for word, following in zip(words, [*words[1:], ""][: len(words)], strict=True):
        if word.lower() not in ("a", "an"):
            found.append(word)
        elif following.lower() in (
            PREPOSITIONS - {"inside", "outside", "like", "past", "over", "under", "down", "up", "off", "near"}
        ) | BE | {"and", ",", "."}:
            continue
        elif following[:1].isalpha():
            article = article_for(following)
            found.append(article.capitalize() if word[0].isupper() else article)
        else:
            found.append(word)
    return found


def _finished(words: list[str]) -> list[str]:
    end = len(words)
    while end and (words[end - 1] in _STOPS or _leads_on(words[:end])):
        end -= 1
    cut = any(word not in _STOPS for word in words[end:])
    return words[:end] if cut else words


def _leads_on(words: list[str]) -> bool:
    """Whether the last word needs another one behind it."""
    last = words[-1].lower()
    if last not in _LEADS_ON and last not in BE:
        return False
    before = words[-2].lower() if len(words) > 1 else ""
    if last in _PARTICLES and before:
        if verb_of(before) in _MOVES and ("VERB" in lexicon.parts_of_speech(before)):
            return False
        held = [word.lower() for word in words[:-1]]
        if "with" in held and before not in PREPOSITIONS | DETERMINERS:
            behind = held[len(held) - held[::-1].index("with") :]
            return not behind or any(is_present_participle(word) for word in behind)
    return True
