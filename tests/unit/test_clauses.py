"""Captions in BLIP's words, split into clauses that can be true or false."""

from __future__ import annotations

import pytest

from serve_app.pipeline.clauses import split
from serve_app.pipeline.words import is_plural, lemma


def texts(caption: str) -> list[str]:
    return [phrase.text for phrase in split(caption)]


@pytest.mark.parametrize(
    ("caption", "clauses"),
    [
        ("A dog and two apples on the green grass", ["a dog", "two apples on the green grass"]),
        ("a kitchen with a stove, a refrigerator, and a sink", ["a kitchen with a stove", "a refrigerator", "a sink"]),
        ("a black and white cat", ["a black and white cat"]),
        ("a man that is sitting on a bench", ["a man sitting on a bench"]),
        ("two people riding horses on the beach, with the ocean in the background",
         ["two people riding horses on the beach", "the ocean in the background"]),
        ("a cake decorated with candles. the sky is blue", ["a cake decorated with candles", "the sky is blue"]),
        ("the cat and the dogs are on the left side while the bird is small",
         ["the cat is on the left side", "the dogs are on the left side", "the bird is small"]),
        ("the night sky fills the rest of the picture", ["the night sky fills the rest of the picture"]),
        ("a group of people standing in front of a bus", ["a group of people standing in front of a bus"]),
        ("on the green grass", ["on the green grass"]),
        ("a man in a blue shirt is cutting a cake", ["a man is cutting a cake"]),
        ("a dog sits on a bench", ["a dog sits on a bench"]),
        ("a dog lying in the grass", ["a dog lying in the grass"]),
        ("a small living room with a couch", ["a small living room with a couch"]),
        ("a man with glasses and a beard standing next to a cake",
         ["a man with glasses and a beard standing next to a cake"]),
        ("a large bed with white pillows", ["a large bed with white pillows"]),
        ("a cat sleeping on a couch", ["a cat sleeping on a couch"]),
        ("a woman with a dog that is on a leash", ["a woman with a dog that is on a leash"]),
        ("something odd entirely", []),
        ("", []),
    ],
)  # fmt: skip
def test_clauses(caption: str, clauses: list[str]) -> None:
    assert texts(caption) == clauses


@pytest.mark.parametrize(
    ("clause", "head", "plural"),
    [
        ("a large brown dog on a couch", "dog", False),
        ("two people riding horses", "person", True),
        ("a group of people in a room", "person", False),
        ("a view of the city", "view", False),
        ("three buses on the road", "bus", True),
        ("a glass on the table", "glass", False),
        ("a large bed in a bedroom", "bed", False),
        ("a white drawing of a cat", "drawing", False),
        ("a cat sleeping on a couch", "cat", False),
        ("a cutting board", "board", False),
    ],
)
def test_what_a_clause_is_about(clause: str, head: str, plural: bool) -> None:
    (phrase,) = split(clause)
    assert (phrase.head, phrase.plural) == (head, plural)


def test_clauses_that_lean_on_others_are_known() -> None:
    """ "The lower one" was scored, and written, without the half that it is compared with."""
    found = {
        phrase.text: phrase.leans for phrase in split("the lions in the upper half and the church in the lower one")
    }
    assert found == {"the lions in the upper half": False, "the church in the lower one": True}


@pytest.mark.parametrize(
    ("word", "one"),
    [("dogs", "dog"), ("boxes", "box"), ("berries", "berry"), ("people", "person"), ("bus", "bus"), ("glass", "glass")],
)
def test_lemmas(word: str, one: str) -> None:
    assert lemma(word) == one


@pytest.mark.parametrize(
    ("phrase", "plural"),
    [
        ("the dogs", True),
        ("a dog", False),
        ("some grass", False),
        ("some dogs", True),
        ("the lens", False),
        ("the people", True),
        ("the bus", False),
    ],
)
def test_numbers(phrase: str, plural: bool) -> None:
    assert is_plural(phrase.split()) is plural
