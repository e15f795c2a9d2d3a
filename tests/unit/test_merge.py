"""Merging and the thresholds of extension and rounds."""

from __future__ import annotations

import pytest

from serve_app.pipeline.merge import candidates, gathered_prefix, gathered_words, merge
from serve_app.pipeline.refine import accepts_round, added, choose_extension, fill, needs_extension


def words(count: int, stem: str = "word") -> str:
    """`count` different words of letters only."""
    return " ".join(stem + chr(97 + i // 26) + chr(97 + i % 26) for i in range(count))


def test_candidates_are_longer_than_twenty_characters() -> None:
    assert candidates(["x" * 20, "x" * 21, ""]) == ["x" * 21]


def test_longest_by_characters_wins_not_by_words() -> None:
    few_long = "extraordinarily overcomplicated constructions"
    many_short = "a b c d e f g h i j k l m n"
    assert merge([many_short, few_long]) == ("", few_long)


def test_no_candidate_gives_nothing() -> None:
    assert merge([]) == ("", "")
    assert merge(["too short", ""]) == ("", "")


def test_single_candidate_stands_as_it_is() -> None:
    text = words(12)
    assert merge([text, "short"]) == ("", text)


def test_24_words_are_prefixed_and_25_are_not() -> None:
    other = words(12, "other")
    assert merge([words(24), other])[0].startswith("The image shows wordaa, ")
    assert merge([words(25), other]) == ("", words(25))


def test_prefix_needs_more_than_ten_words() -> None:
    assert gathered_prefix([words(10)]) == ""
    assert gathered_prefix([words(11)]) == f"The image shows {', '.join(words(11).split())}. "


def test_prefix_holds_at_most_fifteen_words() -> None:
    assert gathered_prefix([words(16)]) == f"The image shows {', '.join(words(15).split())}. "


def test_gathered_words_are_distinct_long_and_in_order_of_all_candidates() -> None:
    assert gathered_words(["The Dog, the grass; a tree", "Grass and two trees."]) == ["grass", "tree", "trees"]


@pytest.mark.parametrize(("count", "wanted"), [(0, True), (9, True), (10, False)])
def test_fewer_than_ten_words_are_extended(count: int, wanted: bool) -> None:
    assert needs_extension(words(count)) is wanted


def test_extension_must_be_more_than_five_words_longer() -> None:
    caption = words(9)
    assert choose_extension(caption, [words(14)]) is None
    assert choose_extension(caption, [words(15)]) == words(15)
    assert choose_extension(caption, [words(15), words(20), ""]) == words(20)
    assert choose_extension(caption, []) is None


def test_round_must_be_more_than_eight_words_longer() -> None:
    assert not accepts_round(words(20), words(28))
    assert accepts_round(words(20), words(29))


def test_braces_in_a_caption_mean_nothing() -> None:
    assert fill("including {caption}", "a {sign} with {caption}") == "including a {sign} with {caption}"


def test_added_is_what_continues_the_caption() -> None:
    assert added("A dog", "a dog, on the grass") == "on the grass"
    assert added("A dog", "Two cats") == "Two cats"
    assert added("A cat", "A caterpillar on a leaf") == "A caterpillar on a leaf"
