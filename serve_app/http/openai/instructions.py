"""What the text of a chat asks for: a question, or a caption of some length."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.types import MIN_CHARACTERS, Detail

LONGEST_QUESTION = 300
"""Characters; longer texts are instructions with the context of a page or a chat."""
SENTENCE_WORDS = 20
"""Of "one sentence"."""

_SENTENCES = re.compile(r"[^.!?\n]+[.!?]*")
_ASKING = re.compile(
    r"(what|which|who|whose|where|when|why|how|is|are|was|were|does|do|did|can|could|has|have)\b", re.IGNORECASE
)
_POLITE = (
    r"(?:(?:please|now|then|and|also|ok|okay|hi|hello)[\s,]+|(?:can|could|would|will) you (?:please )?|"
    r"i (?:want|need) you to )*"
)
_INSTRUCTION = re.compile(
    rf"{_POLITE}(?:describe|caption|summari[sz]e|write|generate|create|provide|produce|give|list|name|tag|tell|make|"
    r"return|respond|reply|answer|output|explain|analy[sz]e|identify|extract|look|act|you are|your task)\b",
    re.IGNORECASE,
)
_OF_ANY_IMAGE = re.compile(
    r"(?:a|about|an|and|at|can|contain(?:ed|s)?|contents?|could|depict(?:ed|s)?|details?|do|does|going|happening|has|"
    r"have|here|i|images?|in|is|are|its?|like|look(?:ing)?|me|of|on|photo(?:graph)?s?|pic|pictures?|please|scene|see|"
    r"show(?:n|s)?|tell|that|the|there|these|this|those|to|we|what|what's|whats|you)"
)
"""Words of questions that a caption answers, such as "What's in this image?"."""

_MOST = (
    r"(?:under|below|at most|max(?:imum)?(?: of)?|no more than|not more than|up to|within|(?:less|fewer|shorter) than|"
    r"limit(?:ed)? (?:of|to)|in|to)"
)
_UNIT = r"(?P<unit>characters?|chars?|words?)"
_LENGTHS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_MOST}:?\s+(?:about |around )?(?P<count>\d{{1,5}})[\s-]+{_UNIT}\b",
        rf"(?P<count>\d{{1,5}})[\s-]+{_UNIT}(?: or (?:less|fewer)| max(?:imum)?| at most| limit| long)\b",
        rf"(?P<count>\d{{1,5}})-{_UNIT}\b",
    )
]
_ONE_SENTENCE = re.compile(r"\b(?:one|1|a|single|one single) (?:short |brief |simple )?sentence\b", re.IGNORECASE)
_SHORT = re.compile(r"\b(?:short|brief|briefly|concise|concisely|succinct)\b", re.IGNORECASE)
_LONG = re.compile(r"\b(?:detailed|in detail|comprehensive|thorough|thoroughly|long)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instructions:
    """None for what the text says nothing of."""

    question: str | None = None
    max_words: int | None = None
    max_characters: int | None = None
    detail: Detail | None = None


def read_instructions(text: str, system: Sequence[str] = ()) -> Instructions:
    """What the user's `text` asks for; lengths may also stand in `system` messages."""
    question = question_of(text)
    if question is not None:
        return Instructions(question=question)
    for said in (text, *system):
        words, characters = _length(said, "w"), _length(said, "c")
        if words is None and _ONE_SENTENCE.search(said):
            words = SENTENCE_WORDS
        detail: Detail | None = "low" if _SHORT.search(said) else "high" if _LONG.search(said) else None
        if words or characters or detail:
            return Instructions(None, words, characters and max(MIN_CHARACTERS, characters), detail)
    return Instructions()


def question_of(text: str) -> str | None:
    """The question that a text asks of the picture's content; None for instructions and for "What's in this image?"."""
    if len(text) > LONGEST_QUESTION:
        return None
    sentences: list[str] = [sentence.strip() for sentence in _SENTENCES.findall(text) if sentence.strip()]
    if any(_INSTRUCTION.match(sentence) for sentence in sentences):
        return None
    asked: list[str] = [sentence for sentence in sentences if sentence.endswith("?")]
    if not asked and len(sentences) == 1 and _ASKING.match(sentences[0]):
        asked = sentences
    if not asked or all(_OF_ANY_IMAGE.fullmatch(word) for word in re.findall(r"[\w']+", asked[-1].lower())):
        return None
    return asked[-1]


def _length(text: str, unit: str) -> int | None:
    """The least length in words or characters ("w", "c") that a text names."""
    found = [match for pattern in _LENGTHS for match in pattern.finditer(text)]
    counts = [int(match["count"]) for match in found if match["unit"].lower().startswith(unit)]
    return min((count for count in counts if count), default=None)
