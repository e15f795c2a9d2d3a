"""Single words: forms that meet, words that mean the same, names, articles."""

from __future__ import annotations

import pytest

from serve_app.pipeline.language import kinds, lexicon
from serve_app.pipeline.language.names import NAMES


@pytest.mark.parametrize(
    ("word", "one"),
    [
        ("dogs", "dog"),
        ("boxes", "box"),
        ("berries", "berry"),
        ("people", "person"),
        ("women", "woman"),
        ("bus", "bus"),
        ("glass", "glass"),
        ("knifes", "knife"),
        ("riding", "ride"),
        ("sits", "sit"),
        ("jetliners", "jetliner"),
    ],
)
def test_forms_of_a_word_meet(word: str, one: str) -> None:
    assert lexicon.lemma(word) == one


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("racket", "racquets"),
        ("plane", "airplanes"),
        ("sofa", "couch"),
        ("grey", "gray"),
        ("tv", "television"),
        ("lying", "laying"),
    ],
)
def test_words_that_mean_the_same_are_one_concept(first: str, second: str) -> None:
    assert kinds.concept(first) == kinds.concept(second)


def test_kinds_and_what_excludes_one_another() -> None:
    assert {"dog", "animal"} <= kinds.kinds_of("puppy")
    assert kinds.exclusive("man", "woman") == "person"
    assert kinds.exclusive("boy", "girl") == "child"
    assert kinds.exclusive("man", "skier") is None


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("a street in havana cuba", "a street in Havana Cuba"),
        ("the statue of liberty in new york city", "the Statue of Liberty in New York City"),
        ("a christmas tree in may", "a Christmas tree in May"),
        ("a man may fall in march", "a man may fall in March"),
        ("dishes in china", "dishes in China"),
        ("dishes of china", "dishes of china"),
        ("people in nice clothes", "people in nice clothes"),
        ("a white house", "a white house"),
        ("a horse led by a man doing push ups", "a horse led by a man doing push ups"),
        ("a turkey on a plate", "a turkey on a plate"),
        ("a t-shirt", "a t-shirt"),
        ("an iphone and a bmw", "an iPhone and a BMW"),
    ],
)
def test_names_get_their_capitals_back(words: str, written: str) -> None:
    assert " ".join(NAMES.restore(words.split())) == written


@pytest.mark.parametrize(
    ("word", "article"),
    [
        ("dog", "a"),
        ("owl", "an"),
        ("hour", "an"),
        ("usb", "a"),
        ("uninhabited", "an"),
        ("european", "a"),
        ("suv", "an"),
        ("hp", "an"),
        ("honor", "an"),
        ("ukrainian", "a"),
        ("uk", "a"),
    ],
)
def test_articles_go_by_sound(word: str, article: str) -> None:
    assert lexicon.article_for(word) == article


def test_verbs_as_they_are_needed() -> None:
    assert lexicon.participle_of("sits") == "sitting"
    assert lexicon.is_finite_form("walk")
    assert not lexicon.is_finite_form("dog")
    assert lexicon.is_past_participle("parked")
    assert not lexicon.is_past_participle("bed")
    assert lexicon.is_bound("looking", "at")
    assert not lexicon.is_bound("sitting", "on")
