"""What chat models write around a description: greetings, headings, lists, talk of the image, opinions, refusals.

`described` leaves the sentences that say what is to be seen. A text without any of it comes back as it is, but for
white space.
"""

from __future__ import annotations

import re

from serve_app.pipeline.language.grammar import words_of

_I = re.IGNORECASE
_MEDIUM = r"(?:image|picture|photo|photograph|scene|illustration|drawing|painting|snapshot|view|frame)"
_SHOWS = (
    r"(?:shows?|showing|depicts?|features?|captures?|displays?|presents?|portrays?|illustrates?|contains?|showcases?|"
    r"includes?|consists of|is of|reveals?)"
)
_REFUSAL = re.compile(
    r"^\W*(?:(?:i['’]?m|i am)\s+(?:very\s+|really\s+)?(?:sorry|unable|not able|afraid)|sorry|as an ai|unfortunately"
    r"|i apologi[sz]e|i\s+(?:can(?:no|['’])t|cannot|won['’]t|do\s+not|don['’]t)\s)",
    _I,
)
_FENCE = re.compile(r"^\s*(?:```.*|[-*_]{3,}|={3,})\s*$")
_HEADING = re.compile(r"^\s*#{1,6}\s")
_BULLET = re.compile(r"^\s*(?:[-*•+–]|\(?\d{1,2}[.)])\s+")
_NUMBERS = re.compile(r"(?:^|(?<=[.:;,] ))\d{1,2}[.)]\s+(?=[A-Z])")
_BOLD = re.compile(r"(\*\*|__)(.+?)\1")
_EMPHASIS = re.compile(r"(?<!\w)([*_`])(?!\s)(.+?)(?<!\s)\1(?!\w)")
_LABEL = re.compile(r"^\s*[A-Za-z][\w /&'’-]{0,40}:\s*")
_MOST_LABEL_WORDS = 4
_ABSTRACT = words_of(
    "mood lighting tone atmosphere note notes summary theme themes aesthetic composition perspective impression vibe "
    "ambiance"
)
"""What no one thing of a picture bears out, as a label or as the subject of a sentence."""
_IS = words_of("is are was seems appears suggests conveys evokes feels exudes creates adds gives indicates of")
_ABSTRACT_LABELS = _ABSTRACT | words_of("color colors colour colours style light overall angle medium quality")
_GREETING = re.compile(
    r"^\W*(?:sure(?:\s+thing)?|certainly|of course|absolutely|okay|ok|great|yes|alright)[,.!:]+\s*", _I
)
_HERE = re.compile(
    r"^\W*here(?:['’]s|\s+is|\s+are)\b[^.:\n]*\b(?:description|caption|overview|summary|breakdown|details)\b[^.:\n]*[.:]\s*",
    _I,
)
_TALK = re.compile(
    r"^\W*(?:let me know|feel free|i hope|hope this|please (?:let|feel|note|provide|specify)|would you|do you"
    r"|if you|is there anything|i can also"
    r"|thank you|note that|this description|based on)\b",
    _I,
)
_SEES = r"(?:we|you|one)\s+(?:can\s+)?(?:also\s+)?(?:see|observe|notice|find)\s+"
_LEAD = re.compile(
    rf"^(?:(?:in|from)\s+(?:the|this)\s+{_MEDIUM}\b(?:\s*,\s*(?:{_SEES})?|\s+{_SEES}|\s+(?=there\b))"
    rf"|(?:the|this)\s+{_MEDIUM}\s+{_SHOWS}\s+(?:{_SEES})?)",
    _I,
)
_SEEN = re.compile(rf"^(?:{_SEES}|i\s+(?:can\s+)?see\s+)", _I)
_SEEMS = re.compile(r"^it\s+(?:seems|appears|is likely|is possible)\s+that\s+(?=\w)", _I)
_TO_BE = (
    (re.compile(r"\b(?:appears|seems|is likely|is believed) to be\b", _I), "is"),
    (re.compile(r"\b(?:appear|seem|are likely) to be\b", _I), "are"),
)
_GUESS = re.compile(r",\s*(?:possibly|perhaps|probably|likely|maybe|presumably)\b[^,.;]*(?:,(?=\s))?", _I)
_MOOD = re.compile(
    r",\s*(?:suggesting|indicating|giving (?:it|the)|creating|adding)\b[^.;]*\b"
    r"(?:atmosphere|mood|sense|feel(?:ing)?|touch|vibe|ambiance|impression)\b[^.;]*",
    _I,
)
_SHORT = (
    (re.compile(r"\b(there|it|he|she|that|here|who|what)['’]s\b", _I), r"\1 is"),
    (re.compile(r"\b(they|we|you)['’]re\b", _I), r"\1 are"),
)
_ENDS = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])")


def refuses(text: str) -> bool:
    """Whether a chat model says that it will not or cannot describe the image."""
    return _REFUSAL.match(text) is not None


def described(text: str) -> str:
    """The sentences of a chat model's answer that say what is to be seen, on one line; empty if none does."""
    lines = [found for line in text.splitlines() if (found := _line(line))]
    sentences = [each for line in lines for each in _ENDS.split(_shortened(line)) if each.strip()]
    kept = [found for each in sentences if (found := _sentence(each.strip()))]
    return " ".join(kept)


def _line(line: str) -> str:
    """A line without its marks, ended like a sentence if it is one of a list; empty for headings and rules."""
    if _FENCE.match(line) or _HEADING.match(line):
        return ""
    listed = _BULLET.match(line) is not None
    plain = _BULLET.sub("", line).strip()
    bold = _BOLD.match(plain)
    plain = _EMPHASIS.sub(r"\2", _BOLD.sub(r"\2", plain))
    if (label := _LABEL.match(plain)) is not None and len(label[0].split()) <= _MOST_LABEL_WORDS:
        words = {word.strip(":").lower() for word in label[0].split()}
        if (bold or listed or label.end() == len(plain)) and words & _ABSTRACT_LABELS:
            return ""
        if bold or listed or label.end() == len(plain):
            plain = plain[label.end() :]
    elif bold and bold.end() == len(line.strip()):
        return ""  # a heading in bold
    plain = _dashed(re.sub(r"\s*\([^()]*\)", "", plain)) if listed else plain
    plain = plain.strip()
    return plain if not listed or not plain or plain[-1] in ".!?" else f"{plain.rstrip(':;,')}."


def _dashed(item: str) -> str:
    """An item of a list without what a word or two behind a dash say of it: "bicycle - center"; else with a comma."""
    first, *rest = re.split(r"\s+[-–—]\s+", item)
    return first if len(rest) == 1 and len(rest[0].split()) <= 2 else ", ".join([first, *rest])


def _shortened(line: str) -> str:
    """A line without numbers of a list within it, and without apostrophes for "is" and "are"."""
    line = _NUMBERS.sub("", line) if len(_NUMBERS.findall(line)) > 1 else line
    for pattern, whole in _SHORT:
        line = pattern.sub(whole, line)
    return line


def _is_abstract(words: list[str]) -> bool:
    """Whether a sentence begins with "the mood is", "the overall atmosphere suggests"."""
    words = [word for word in words if word not in ("overall", "general")]
    return words[:1] == ["the"] and set(words[1:2]) <= _ABSTRACT and set(words[2:3]) <= _IS


def _sentence(sentence: str) -> str:
    """What a sentence says of the image; empty if it says nothing of it."""
    for opening in (_GREETING, _HERE):
        sentence = opening.sub("", sentence, count=1)
    if not sentence or _REFUSAL.match(sentence) or _TALK.match(sentence) or sentence.endswith("?"):
        return ""
    for pattern, verb in _TO_BE:
        sentence = pattern.sub(verb, sentence)
    sentence = _SEEN.sub("", _LEAD.sub("", _SEEMS.sub("", sentence, count=1), count=1), count=1)
    sentence = _MOOD.sub("", _GUESS.sub("", sentence))
    words = re.findall(r"[A-Za-z']+", sentence.lower())[:5]
    if words[:1] == ["overall"] or _is_abstract(words):
        return ""
    return sentence[:1].upper() + sentence[1:] if words else ""
