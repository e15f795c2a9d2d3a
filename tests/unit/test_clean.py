"""Cleaning of generated texts."""

from __future__ import annotations

import pytest

from serve_app.pipeline.clean import clean
from serve_app.pipeline.presets import EXTENSION_PROMPTS, ROUND_PROMPT, VARIANT_PROMPTS


@pytest.mark.parametrize("prompt", VARIANT_PROMPTS)
@pytest.mark.parametrize("colon", ["", ":", " : "])
def test_variant_prompt_is_not_repeated_in_the_caption(prompt: str, colon: str) -> None:
    assert clean(f"{prompt}{colon} a dog on a couch") == "A dog on a couch"


@pytest.mark.parametrize("prompt", [*EXTENSION_PROMPTS, ROUND_PROMPT])
def test_caption_in_a_prompt_stays_and_the_prompt_goes(prompt: str) -> None:
    generated = prompt.format(caption="a dog, two cats.").lower().replace(":", " :") + " and a ball"
    assert clean(generated) == "A dog, two cats. and a ball"


@pytest.mark.parametrize(
    "opening", ["a picture of", "an image of", "a photo of", "a close up of", "a view of", "a scene of"]
)
def test_empty_openings_go(opening: str) -> None:
    assert clean(f"{opening} a dog") == "A dog"


def test_nested_openings_go() -> None:
    assert clean("a photography of: a close up of a dog") == "A dog"


def test_echo_ends_at_a_word() -> None:
    assert clean("a picture often seen") == "A picture often seen"


def test_echo_in_the_middle_stays() -> None:
    assert clean("a wall with a picture of a dog") == "A wall with a picture of a dog"


def test_leading_punctuation_and_space_go() -> None:
    assert clean("  : ., - a  dog\n on a couch ") == "A dog on a couch"


def test_only_the_first_letter_is_changed() -> None:
    assert clean("a dog in NYC") == "A dog in NYC"


def test_prompts_of_the_request_go_too() -> None:
    assert clean("what i see is: a dog", ["what I see is"]) == "A dog"
    assert clean("what i see is: a dog") == "What i see is: a dog"


@pytest.mark.parametrize("text", ["", "   ", "...", "a photography of", "a photography of :"])
def test_nothing_remains_of_nothing(text: str) -> None:
    assert clean(text) == ""
