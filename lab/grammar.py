"""A check of whether a caption is made of well-formed sentences, for the small language of the scenes.

A caption passes when every sentence begins with a capital and ends with a full stop, no word follows itself, articles
fit the sounds after them, numbers and verbs agree with the nouns, every single thing has a determiner, no sentence
stands twice, and none begins or ends with a word that leads nowhere.
"""

from __future__ import annotations

import itertools
import re

from lab.captions import NUMBERS
from lab.objects import BY_WORD, KINDS

_PLURALS = {kind.plural for kind in KINDS if kind.plural != kind.noun}
_SINGULARS = {kind.noun for kind in KINDS if kind.plural != kind.noun}
_SEVERAL = frozenset(NUMBERS[2:])
_DETERMINERS = frozenset(["a", "an", "the", "one", *_SEVERAL, "no", "some"])
_LEADS_NOWHERE = frozenset(["a", "an", "the", "and", "with", "in", "on", "of", "where", "while", "plus"])
_NEVER_FIRST = frozenset(["and", "with", "plus", "while", "where", "of", "is", "are"])


def faults(text: str) -> list[str]:
    """What is wrong, in words; empty for a well-formed caption."""
    found = []
    if not text.strip():
        return ["it is empty"]
    if not text.strip().endswith("."):
        found.append("it does not end with a full stop")
    sentences = [sentence.strip() for sentence in re.split(r"(?<=\.)\s+", text.strip())]
    if len(set(sentences)) < len(sentences):
        found.append("a sentence stands twice")
    for sentence in sentences:
        found += _of_sentence(sentence)
    return found


def _of_sentence(sentence: str) -> list[str]:
    found = []
    if not sentence[:1].isupper():
        found.append("a sentence begins without a capital")
    if re.search(r"[,;:]\s*[.,;:]|\s[,.;:]", sentence):
        found.append("stray punctuation")
    words = re.findall(r"[a-z]+|,", sentence.lower())
    plain = [word for word in words if word != ","]
    if not plain or plain[0] in _NEVER_FIRST or plain[-1] in _LEADS_NOWHERE:
        found.append("a sentence begins or ends with a word that leads nowhere")
    found += [f"{first!r} twice" for first, second in itertools.pairwise(words) if first == second]
    for at, word in enumerate(words):
        following = words[at + 1] if at + 1 < len(words) else ""
        if word in ("a", "an") and following and (word == "an") != (following[0] in "aeiou"):
            found.append(f"{word} {following}")
        if word in BY_WORD:
            found += _of_noun(words, at)
        if word == "there" and following in ("is", "are"):
            found += _of_there(words[at + 2 :], following)
    return found


def _of_noun(words: list[str], at: int) -> list[str]:
    """Determiner, number and verb of the noun at that place."""
    found, noun = [], words[at]
    before = words[max(0, at - 2) : at]
    determiner = next((word for word in reversed(before) if word in _DETERMINERS), None)
    if noun in _SINGULARS and determiner is None:
        found.append(f"{noun} without a determiner")
    if noun in _SINGULARS and determiner in _SEVERAL:
        found.append(f"{determiner} {noun}")
    if noun in _PLURALS and determiner in ("a", "an", "one"):
        found.append(f"{determiner} {noun}")
    verb = words[at + 1] if at + 1 < len(words) else ""
    if verb in ("is", "are") and determiner == "the":
        several = noun in _PLURALS or _is_listed(words, at)
        if noun in _SINGULARS | _PLURALS and several != (verb == "are"):
            found.append(f"the {noun} {verb}")
    return found


def _is_listed(words: list[str], at: int) -> bool:
    """Whether another subject stands before: "the cat and the dog are"."""
    return at >= 3 and words[at - 2] in ("and", "plus", ",") and words[at - 3] in BY_WORD


def _of_there(rest: list[str], verb: str) -> list[str]:
    first = next((word for word in rest if word in BY_WORD), None)
    number = next((word for word in rest if word in _DETERMINERS), None)
    if first is None or number is None:
        return []
    return [] if (number in _SEVERAL) == (verb == "are") else [f"there {verb} {number} {first}"]
