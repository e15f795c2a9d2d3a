"""Texts as BLIP writes them when nobody looks, and what is left of them."""

from __future__ import annotations

import pytest

from serve_app.pipeline.language.noise import denoise


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("arafed man sitting on a bench", "a man sitting on a bench"),
        ("an arafed image of a cat", "a cat"),
        ("there is a dog that is laying on a couch", "a dog that is laying on a couch"),
        ("there are two people riding horses", "two people riding horses"),
        ("a dog and a dog and a dog", "a dog"),
        ("a man in a suit and tie and a man in a suit and tie", "a man in a suit and tie"),
        ("red red red car", "red car"),
        ("a plate, a plate, a plate", "a plate"),
        ("a cat laying on a bed with a", "a cat laying on a bed"),
        ("a street with cars and", "a street with cars"),
        ("a black and white cat", "a black and white cat"),
        ("a very very tall tower", "a very tall tower"),
        ("the dog and the cat in the upper half and the bird in the lower one",
         "the dog and the cat in the upper half and the bird in the lower one"),
        ("two arafed men", "two men"),
        ("people with arafed hair", "people with hair"),
        ("there are araffe dogs", "dogs"),
        ("araffe is walking", "is walking"),
        ("yasser arafat giving a speech", "yasser arafat giving a speech"),
        ("arafed, woman", "woman"),
        ("a dog on a .", "a dog"),
        ("a 3.5 inch screen at 10:30", "a 3.5 inch screen at 10:30"),
        ("a man in a black t - shirt & jeans", "a man in a black t-shirt & jeans"),
        ("an dog and a apple and an small owl", "a dog and an apple and a small owl"),
        ("an usb stick and an utility pole and a uninhabited island and a suv",
         "a usb stick and a utility pole and an uninhabited island and an suv"),
        ("", ""),
        ("arafed", ""),
    ],
)  # fmt: skip
def test_made_up_words_openings_loops_and_cut_ends_go(text: str, left: str) -> None:
    assert denoise(text) == left
