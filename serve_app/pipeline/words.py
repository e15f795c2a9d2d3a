"""The closed classes of English that captions are made of, and small rules of their grammar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = words_of("two three four five six seven eight nine ten")
PLURAL_DETERMINERS = NUMBERS | words_of("several many few various multiple these those both")
DETERMINERS = PLURAL_DETERMINERS | words_of(
    "some all a an the this that one another each every no his her their its my your our"
)
PREPOSITIONS = words_of(
    "in on at under over above below behind beside before near next between among against along around across "
    "through inside outside onto into within without with by from to for toward towards like during up down off "
    "atop"
)
BE = words_of("is are was were")
CONNECTIVES = words_of("and or but plus while where with as of")
LEANING = words_of("it its they them their he she his her him one ones other others another both each same")
"""Words that lean on what was said before; a clause that has one cannot stand alone."""
EMPTY = DETERMINERS | PREPOSITIONS | BE | CONNECTIVES | words_of("there also has have of that which who be being")
"""Words that say nothing of an image by themselves; numbers do."""

OPPOSITES = {
    "left": ("right",),
    "right": ("left",),
    "top": ("bottom", "lower"),
    "upper": ("bottom", "lower"),
    "bottom": ("top", "upper"),
    "lower": ("top", "upper"),
    "large": ("small", "little"),
    "big": ("small", "little"),
    "small": ("large", "big"),
    "little": ("large", "big"),
}
_PLACES = words_of("side half part corner area")
"""Words that only hold a direction: "on the left side" says no more of a thing than "left"."""
_DIRECTIONS = {"upper": "top", "lower": "bottom"}
_NOUNS_IN_ING = words_of(
    "building ceiling clothing evening king lightning morning painting railing ring spring string thing wedding "
    "wing living dining parking swimming fishing washing frying cutting rocking sewing shopping sleeping awning "
    "earring something anything nothing everything sibling pudding icing bedding flooring"
)
_SHORT_PARTICIPLES = words_of("doing lying using going being tying")
_NOT_PLURAL = re.compile(r"(?:ss|us|is)$|^(?:lens|gas|yes|always)$")
_IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "knives": "knife",
    "leaves": "leaf",
    "shelves": "shelf",
    "loaves": "loaf",
    "wolves": "wolf",
    "cookies": "cookie",
    "movies": "movie",
    "ties": "tie",
    "pies": "pie",
    "shoes": "shoe",
    "toes": "toe",
    "canoes": "canoe",
    "feet": "foot",
    "teeth": "tooth",
}
_IRREGULAR_PLURALS = frozenset(_IRREGULAR) | {"cattle", "police"}
_TOKEN = re.compile(r"\d+(?:[.:,]\d+)+|[\w'’-]+|[,.;:!?]|[^\s\w]")
_VOWEL_SOUND = re.compile(
    r"^(?:(?:suv|lcd|mri|rv|xbox|nba|nfl|mlb|x)\b|[ai]|e(?!u|we)|o(?!ne\b|nce)|hour|honest|heir|"
    r"u(?!ni(?![dmn])|se|s[aeiou]|s[bp]?\b|kule|r[aeiou]|t[ei]|fo\b|ps\b))",
    re.IGNORECASE,
)


def tokens(text: str) -> list[str]:
    """Words, numbers and marks. What the tokenizer tore apart ("t - shirt", "woman ' s") is joined."""
    return _TOKEN.findall(re.sub(r"(?<=\w) ([-'’]) (?=\w)", r"\1", text))


def untokenized(words: Iterable[str]) -> str:
    return re.sub(r" ([,.;:!?])", r"\1", " ".join(words))


def article_for(word: str) -> str:
    """ "a" or "an", by the word's first sound as far as its letters tell."""
    return "an" if _VOWEL_SOUND.match(word) else "a"


def is_participle(word: str) -> bool:
    """A present participle ("standing"), as far as its ending tells."""
    return word in _SHORT_PARTICIPLES or (word.endswith("ing") and len(word) > 5 and word not in _NOUNS_IN_ING)


def is_plural(phrase: Sequence[str]) -> bool:
    """Whether a noun phrase in lower-case words takes "are"."""
    if phrase[0] in PLURAL_DETERMINERS:
        return True
    if phrase[0] in ("a", "an", "one", "this", "that", "each", "every", "another"):
        return False
    noun = phrase[-1]
    return noun in _IRREGULAR_PLURALS or (noun.endswith("s") and not _NOT_PLURAL.search(noun))


def lemma(word: str) -> str:
    """A word's singular, roughly: enough to know "dogs" for "dog" again."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:sh|ch|x|ss|o|(?<!o)us)es$", word):
        return word[:-2]
    if word.endswith("s") and not _NOT_PLURAL.search(word) and len(word) > 3:
        return word[:-1]
    return word


def content(text: str) -> frozenset[str]:
    """What a text is about: the lemmas of its words that are not empty, numbers among them."""
    words = (word.lower() for word in tokens(text) if word[0].isalnum())
    return frozenset(lemma(word) for word in words if word not in EMPTY or word in NUMBERS)


def claims(words: Iterable[str]) -> frozenset[str]:
    """Of content words, those that claim something: "the upper half" claims no more than "top"."""
    return frozenset(_DIRECTIONS.get(word, word) for word in words if word not in _PLACES)


def sentence(text: str) -> str:
    """Capitalised, with a full stop."""
    text = text.strip(" ,;:.")
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def joined(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
