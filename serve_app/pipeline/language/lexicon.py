"""Single words of the open classes, by lemminflect's dictionary and our own exceptions before it."""

from __future__ import annotations

import re
from functools import lru_cache

from lemminflect import getAllLemmas, getInflection

from serve_app.pipeline.language.grammar import ADVERBS, MOTION, PREPOSITIONS, data, words_of

_GRAMMAR, _VERBS, _NOUNS = data("grammar"), data("verbs"), data("nouns")

ADDING = words_of(_VERBS["adding"])
BEGINNING = words_of(_VERBS["beginning"])
RESTING = words_of(_VERBS["resting"])
OF_THE_LIVING = words_of(_VERBS["of_the_living"])
POSTURES = words_of(_VERBS["posture"])
LIGHT = words_of(_VERBS["light"])
_PLURAL_ONLY = words_of(_NOUNS["plural_only"])
_ALSO_NOUNS = words_of(_NOUNS["also_nouns"])
_FINITE = words_of(_VERBS["finite"])
_BOUND = {verb: words_of(prepositions) for verb, prepositions in _VERBS["bound"].items()}
_NOUNS_IN_ING = words_of(_GRAMMAR["nouns_in_ing"])
_COMPOUNDS_IN_ING = {word: words_of(nouns) for word, nouns in _GRAMMAR["ing_compounds"].items()}
_IRREGULAR: dict[str, str] = _NOUNS["lemmas"]


@lru_cache(maxsize=65536)
def parts_of_speech(word: str) -> frozenset[str]:
    """NOUN, VERB, ADJ, ADV as far as the dictionary knows the word; NOUN for one that it doesn't know."""
    known = frozenset(getAllLemmas(word)) - {"PROPN", "AUX"}
    if word in _ALSO_NOUNS or word in _NOUNS_IN_ING:
        return known | {"NOUN"}
    if known:
        return known
    if "-" in word:
        last = word.rsplit("-", 1)[1]
        if last and (last.endswith("ed") or parts_of_speech(last) <= {"VERB", "ADJ"}):
            return frozenset(("ADJ",))
    if word.endswith("ly") and len(word) > 4:
        return frozenset(("ADV",))
    if word.endswith("ing") and len(word) > 5:
        return frozenset(("VERB",))
    return frozenset(("NOUN",))


def is_known(word: str) -> bool:
    """Whether the dictionary, or one of our lists, has the word."""
    return bool(getAllLemmas(word)) or word in ADVERBS | PREPOSITIONS | _ALSO_NOUNS | _IRREGULAR.keys()


@lru_cache(maxsize=65536)
def lemma(word: str) -> str:
    """The dictionary form under which a word's forms meet: "dogs" and "dog", "riding" and "rides"."""
    word = word.removesuffix("'s").removesuffix("’s").rstrip("'’")
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    known = getAllLemmas(word)
    if word.endswith(("ing", "ed")) and "VERB" in known and word not in _NOUNS_IN_ING:
        return str(known["VERB"][0])
    for part in ("NOUN", "VERB", "ADJ", "ADV"):
        if part in known:
            return str(known[part][0]) if part in ("NOUN", "VERB") else word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if re.search(r"(?:sh|ch|x|ss)es$", word):
        return word[:-2]
    if word.endswith("s") and len(word) > 3 and not re.search(r"(?:ss|us|is)$", word):
        return word[:-1]
    return word


def completes_compound(word: str, following: str) -> bool:
    """Whether a word in -ing and the noun behind it are one name: "cutting board"."""
    return following in _COMPOUNDS_IN_ING.get(word, ())


def is_present_participle(word: str) -> bool:
    if not word.endswith("ing") or len(word) < 5 or word in _NOUNS_IN_ING:
        return False
    return "VERB" in parts_of_speech(word)


def may_be_participle(word: str) -> bool:
    """Whether a noun in -ing can be a verb's form if an object follows: "painting a wall"."""
    return word in _NOUNS_IN_ING and "VERB" in parts_of_speech(word)


_PAST_PARTICIPLES = {
    str(form): verb
    for verb in (
        *_FINITE,
        *words_of(
            "see hold make build tear wear know steal freeze hide bind string light lose find keep bear swear mount"
        ),
    )
    for form in getInflection(verb, "VBN")
    if not form.endswith("ed")
    and form not in ("come", "run", "set", "hit", "cut", "put", "shut", "left", "read", "let")
}


def is_past_participle(word: str) -> bool:
    """Of irregular ones, those of verbs that captions use; never a word that is as well a noun ("bed")."""
    if word in _PAST_PARTICIPLES:
        return True
    return (
        word.endswith("ed")
        and len(word) > 3
        and "VERB" in parts_of_speech(word)
        and "NOUN" not in parts_of_speech(word)
    )


@lru_cache(maxsize=8192)
def verb_of(word: str) -> str:
    """The base form of a verb's form."""
    if word in _PAST_PARTICIPLES:
        return _PAST_PARTICIPLES[word]
    if word in _IRREGULAR and word.endswith("ing"):
        return _IRREGULAR[word]
    known = getAllLemmas(word, "VERB").get("VERB", ())
    return str(word if word in known or not known else known[0])


@lru_cache(maxsize=8192)
def participle_of(verb: str) -> str:
    """ "sits" → "sitting"."""
    base = verb_of(verb)
    if base in ("lay", "lie"):
        return "laying" if verb.startswith("lay") else "lying"
    found = getInflection(base, "VBG")
    return str(found[0]) if found else f"{base}ing"


@lru_cache(maxsize=8192)
def is_finite_form(word: str) -> bool:
    """Whether a word can be a verb in the present or past behind its subject, whatever else it can be."""
    parts = parts_of_speech(word)
    if "VERB" not in parts or word.endswith("ing") or word in PREPOSITIONS | ADVERBS:
        return False
    return (parts == {"VERB"} and not is_past_participle(word)) or verb_of(word) in _FINITE


@lru_cache(maxsize=8192)
def is_third_person(word: str) -> bool:
    """ "walks", "has": the form behind one thing."""
    return word.endswith("s") and not word.endswith("ss")


def is_bound(verb: str, preposition: str) -> bool:
    """Whether the preposition belongs to the verb: "looking at"; those of place stand free: "sitting on"."""
    base = verb_of(verb)
    return preposition in _BOUND.get(base, ()) or preposition in MOTION or base not in POSTURES


def is_nominal(word: str) -> bool:
    """Whether a word can stand in a noun phrase."""
    return bool(parts_of_speech(word) & {"NOUN", "ADJ"}) or not word.isalpha()


def is_plural(word: str) -> bool:
    """Whether a noun by itself takes "are"."""
    if word in _PLURAL_ONLY:
        return True
    return word.endswith("s") and not re.search(r"(?:ss|us|is|news|lens|gas|tennis)$", word)


def plural_of(word: str) -> str:
    if word == "person":
        return "people"
    found = getInflection(word, "NNS")
    return str(found[0]) if found else f"{word}s"


_VOWEL_SOUND = re.compile(
    r"^(?:(?:suv|lcd|led|mri|rv|xbox|nba|nfl|mlb|nyc|hp|rc|hd|lg|x|atv|f-)\b|[ai]|e(?!u|we)|o(?!ne\b|nce)|"
    r"hour|honest|honou?r|heir|"
    r"u(?!ni(?![dmn])|se|s[aeiou]|s[bp]?\b|k\b|kr|kule|r[aeiou]|t[ei]|fo\b|ps\b))",
    re.IGNORECASE,
)


def article_for(word: str) -> str:
    """ "a" or "an", by the word's first sound as far as its letters tell."""
    return "an" if _VOWEL_SOUND.match(word) else "a"
