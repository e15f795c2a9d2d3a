"""The grounded strategy over generators and matchers that answer by a rule, in BLIP's own words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from serve_app.errors import GeneratorUnavailable
from serve_app.pipeline import CaptionPipeline
from serve_app.pipeline.clauses import split
from serve_app.pipeline.compose import Composition, additions, continuation
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.steps import Step
from serve_app.types import CaptionResult, Match, Pixels
from tests.unit.fakes import PIXELS, RuleGenerator, options

TEXTS = {
    "a photography of": "arafed dog laying on a couch",
    "a detailed photography of": "a large brown dog laying on a couch with a blanket",
    "a professional photography of": "there is a dog on a couch and a window and a pizza",
    "a high resolution photography of": "a dog and a dog and a dog",
}


class RuleMatcher:
    """Scores a text by `rule`, and keeps what it was asked."""

    def __init__(self, rule: Callable[[str], float]) -> None:
        self.calls: list[list[str]] = []
        self._rule = rule

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        self.calls.append(list(texts))
        return [Match(self._rule(text.lower())) for text in texts]


class BrokenMatcher(RuleMatcher):
    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        raise GeneratorUnavailable("No matcher replica could be reached.")


RIGHT, WRONG = 0.9999, 0.0001


def no_pizza(text: str) -> float:
    return WRONG if "pizza" in text else RIGHT


def caption(
    texts: dict[str, str], matcher: RuleMatcher | None, later: str = "", rounds: int = 1
) -> tuple[CaptionResult, RuleGenerator]:
    """`later` is what extensions and rounds say beyond their prompt."""

    def rule(prompt: str) -> str:
        return f"{prompt} {texts[prompt]}" if prompt in texts else prompt + later

    generator = RuleGenerator(rule)
    pipeline = CaptionPipeline(generator, matcher=matcher)
    return asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=rounds))), generator


def test_only_what_the_matcher_supports_is_said_and_each_clause_has_its_source_and_score() -> None:
    result, _ = caption(TEXTS, RuleMatcher(no_pizza))
    assert "pizza" not in result.caption
    assert result.caption == "A large brown dog laying on a couch with a blanket. There is also a window."
    assert [(clause.text, clause.source) for clause in result.clauses] == [
        ("a large brown dog laying on a couch with a blanket", "variant 2"),
        ("a window", "variant 3"),
    ]
    assert all(clause.score is not None and clause.score > 0.5 for clause in result.clauses)
    assert result.degraded == ()
    assert result.variants[0].text == "a dog laying on a couch"
    assert result.variants[2].score == WRONG


def test_a_clause_that_fails_is_taken_out_of_the_first_sentence_too() -> None:
    result, _ = caption(dict.fromkeys(VARIANT_PROMPTS, "a pizza and a cat on a mat"), RuleMatcher(no_pizza))
    assert result.caption == "A cat on a mat."


def test_where_nothing_passes_the_best_text_is_still_an_answer_with_its_score() -> None:
    result, _ = caption(dict.fromkeys(VARIANT_PROMPTS, "a pizza on a mat"), RuleMatcher(no_pizza))
    assert result.caption == "A pizza on a mat."
    assert result.clauses[0].score is not None
    assert result.clauses[0].score < 0.5


def test_a_clause_that_lets_the_whole_fall_is_left_out() -> None:
    def rule(text: str) -> float:
        return WRONG if "window" in text and "dog" in text else no_pizza(text)

    result, _ = caption(TEXTS, RuleMatcher(rule))
    assert result.caption == "A large brown dog laying on a couch with a blanket."


def test_clauses_that_pass_alone_but_not_together_are_dropped_from_the_weakest_on() -> None:
    def rule(text: str) -> float:
        if "food" in text or ("cup" in text and "fork" in text):
            return WRONG
        return 0.999 if "fork" in text else RIGHT

    texts = dict.fromkeys(VARIANT_PROMPTS, "a large brown table in a room")
    texts[VARIANT_PROMPTS[1]] = "a table with food, a cup, and a fork"
    result, _ = caption(texts, RuleMatcher(rule))
    assert "a cup" in result.caption
    assert "fork" not in result.caption


@pytest.mark.parametrize("matcher", [None, BrokenMatcher(no_pizza)])
def test_without_a_matcher_agreement_decides_and_the_answer_says_so(matcher: RuleMatcher | None) -> None:
    texts = dict.fromkeys(VARIANT_PROMPTS, "a dog on a couch")
    texts[VARIANT_PROMPTS[3]] = "a dog on a couch and a pizza"
    result, _ = caption(texts, matcher)
    assert "dog on a couch" in result.caption
    assert "pizza" not in result.caption
    (loss,) = result.degraded
    assert loss.startswith("matcher: ")
    assert "agreement" in loss


def test_a_round_that_adds_nothing_is_the_last() -> None:
    result, generator = caption(TEXTS, RuleMatcher(no_pizza), later="", rounds=3)
    assert [(turn.round, turn.accepted) for turn in result.rounds] == [(2, False)]
    assert len(generator.calls) == 2


def test_a_round_passes_the_same_gate() -> None:
    good, _ = caption(TEXTS, RuleMatcher(no_pizza), later=", where the dog is wearing a red collar", rounds=2)
    assert good.rounds[0].accepted
    assert "where the dog is wearing a red collar" in good.caption
    assert good.clauses[-1].source == "round 2"
    bad, _ = caption(TEXTS, RuleMatcher(no_pizza), later=", where the dog is eating a pizza", rounds=2)
    assert not bad.rounds[0].accepted
    assert "pizza" not in bad.caption


def test_of_a_round_that_is_half_wrong_the_right_half_is_taken() -> None:
    result, _ = caption(
        TEXTS, RuleMatcher(no_pizza), later=", where the dog is eating a pizza and the dog is sleeping", rounds=2
    )
    assert "pizza" not in result.caption
    assert "The dog is sleeping." in result.caption


LONG = "a dog laying on a couch with a blanket and a pillow"


@pytest.mark.parametrize("matcher", [RuleMatcher(no_pizza), None])
@pytest.mark.parametrize("later", [" eating a pizza with cheese", ", while he is eating a pizza", " and pizza"])
def test_a_continuation_without_a_clause_has_to_pass_too(matcher: RuleMatcher | None, later: str) -> None:
    """What had no clause that stands alone was taken without any check."""
    result, _ = caption(dict.fromkeys(VARIANT_PROMPTS, LONG), matcher, later=later, rounds=2)
    assert "pizza" not in result.caption


def test_a_text_that_leans_has_to_pass_too() -> None:
    """A candidate with "his" in each clause was never weighed, and began the caption for its length."""
    said = dict.fromkeys(VARIANT_PROMPTS, "a man holding a phone")
    said["a photography of"] = "a man holding a large pizza in his hands"
    result, _ = caption(said, RuleMatcher(no_pizza))
    assert "pizza" not in result.caption


def test_a_round_after_a_word_with_a_hyphen_adds_and_repeats_nothing() -> None:
    """Decoders write "t - shirt"; the caption was not found at the round's beginning and stood twice in the answer."""
    said = dict.fromkeys(VARIANT_PROMPTS, "a man in a t - shirt sitting on a wooden bench in a park")

    def rule(prompt: str) -> str:
        words = f"{prompt} {said[prompt]}" if prompt in said else prompt + ", where the man is old"
        return words.replace("t-shirt", "t - shirt")

    pipeline = CaptionPipeline(RuleGenerator(rule), matcher=RuleMatcher(no_pizza))
    result = asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=2)))
    assert result.caption == "A man in a t-shirt sitting on a wooden bench in a park, where the man is old."


def test_matcher_calls_stay_a_handful() -> None:
    matcher = RuleMatcher(no_pizza)
    caption(TEXTS, matcher, later=", where the dog is wearing a red collar", rounds=3)
    assert len(matcher.calls) <= 10
    assert max(map(len, matcher.calls)) <= 96


def test_variants_return_several_sequences_without_more_beams() -> None:
    _, generator = caption(TEXTS, None)
    parameters = generator.calls[0][0].parameters
    assert (parameters.num_return_sequences, parameters.num_beams) == (3, 8)


def test_steps_are_told() -> None:
    told: list[Step] = []
    pipeline = CaptionPipeline(
        RuleGenerator(lambda prompt: f"{prompt} a dog on a couch"), matcher=RuleMatcher(no_pizza)
    )
    asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=2), told.append))
    assert type(told[0]).__name__ == "Started"
    assert {"VariantDone", "Merged", "Round"} <= {type(step).__name__ for step in told}


def grown(first: str, *more: str) -> str:
    composition = Composition(first)
    for text in more:
        for addition in additions(split(text), "variant 1", composition):
            composition = composition.plus(addition)
    return composition.text


@pytest.mark.parametrize(
    ("first", "more", "text"),
    [
        ("a dog on a couch", ("a large dog",), "A large dog on a couch."),
        ("two apples and a dog", ("a dog in the top left",), "Two apples and a dog. The dog is in the top left."),
        ("two apples", ("the apples are red and small",), "Two apples. The apples are red and small."),
        ("two apples", ("three apples",), "Two apples."),
        ("a dog", ("a cat", "two cups"), "A dog. There is also a cat and two cups."),
        ("a dog", ("two cups",), "A dog. There are also two cups."),
        ("a dog", ("the sky is blue",), "A dog. The sky is blue."),
        ("a man", ("a man with a beard", "a man wearing a hat"),
         "A man. The man is wearing a hat. The man has a beard."),
        ("a cat and a dog on the grass", ("a cat on the grass",), "A cat and a dog on the grass."),
        ("a dog on a couch", ("the other one",), "A dog on a couch."),
        ("a bathroom with a white toilet", ("a toilet with the lid up",), "A bathroom with a white toilet."),
        ("a group of people flying kites", ("a group of people in a park",),
         "A group of people flying kites. The group is in a park."),
        ("a mat.", ("a view of a room",), "A mat."),
        ("a dog in the top left", ("the dog is on the right side", "a small dog"), "A small dog in the top left."),
        ("a dog in the top left", ("the dog is on the left side", "the dog is in the upper half", "a dog in a basket"),
         "A dog in the top left. The dog is in a basket."),
        ("a man and a woman on a couch", ("a man and woman on a couch",), "A man and a woman on a couch."),
        ("a giraffe", ("a giraffe with trees in the background",), "A giraffe."),
        ("a woman", ("a woman with a dog that is on a leash",), "A woman. The woman has a dog that is on a leash."),
        ("a dog on the left", ("the dog is in the bottom left corner",),
         "A dog on the left. The dog is in the bottom left corner."),
    ],
)  # fmt: skip
def test_what_is_new_joins_in_a_sentence_that_holds(first: str, more: tuple[str, ...], text: str) -> None:
    assert grown(first, *more) == text


def test_a_continuation_that_says_nothing_new_is_none() -> None:
    caption = Composition("a dog on the grass")
    assert continuation(", with the dog on the grass", "round 2", caption) is None
    assert continuation(" .", "round 2", caption) is None
    assert continuation("on the left side", "round 2", Composition("a dog in the top left")) is None
    found = continuation(", where the dog is small", "round 2", caption)
    assert found is not None
    assert caption.plus(found).text == "A dog on the grass, where the dog is small."
