"""What the text of a chat asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.http.openai.instructions import Instructions, read_instructions


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("How many boats are there?", "How many boats are there?"),
        ("what color is the dog", "what color is the dog"),
        ("Thanks! What is the man holding?", "What is the man holding?"),
        ("Is anybody wearing a helmet?", "Is anybody wearing a helmet?"),
        ("Where is this?", "Where is this?"),
        ("What's in this image?", None),
        ("what do you see in the photo", None),
        ("What is happening here?", None),
        ("Can you describe the picture?", None),
        ("Generate alt text for the image. Page title: Who are we?", None),
        ("Hi", None),
        ("", None),
        ("A page about boats. " * 30 + "How many?", None),
    ],
)
def test_questions_are_told_from_instructions(text: str, question: str | None) -> None:
    assert read_instructions(text).question == question


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("Write alt text under 140 characters.", Instructions(max_characters=140)),
        ("a caption of at most 12 words, please", Instructions(max_words=12)),
        ("a 20-word caption", Instructions(max_words=20)),
        ("125 characters max", Instructions(max_characters=125)),
        ("Keep it to 30 words or less and 150 characters or less.", Instructions(max_words=30, max_characters=150)),
        ("Describe it in one sentence.", Instructions(max_words=20)),
        ("Be brief.", Instructions(detail="low")),
        ("Describe this image in detail.", Instructions(detail="high")),
        ("A picture with 3 words on it", Instructions()),
        ("at most 5 characters", Instructions(max_characters=20)),
        ("at most 0 words", Instructions()),
    ],
)
def test_lengths_and_detail_are_read(text: str, asked: Instructions) -> None:
    assert read_instructions(text) == asked


def test_what_the_user_says_goes_before_the_system() -> None:
    assert read_instructions("under 50 characters", ["under 125 characters"]).max_characters == 50
    assert read_instructions("go on", ["", "under 125 characters"]).max_characters == 125


@given(st.text(max_size=500), st.lists(st.text(max_size=100), max_size=2))
def test_any_text_is_read(text: str, system: list[str]) -> None:
    read_instructions(text, system)
