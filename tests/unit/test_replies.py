"""What chat models write around a description."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.errors import CaptionRefused
from serve_app.pipeline import CaptionPipeline, Committee, Member
from serve_app.pipeline.language.replies import described, refuses
from serve_app.types import CaptionResult, ModelInfo
from tests.unit.fakes import INFO, PIXELS, RuleGenerator, options


class Chat(RuleGenerator):
    """A model that follows requests."""

    async def info(self) -> ModelInfo:
        return replace(INFO, prompts=("Describe this image in detail.",), chats=True)


def captioned(text: str) -> CaptionResult:
    pipeline = CaptionPipeline(Chat(lambda _: text))
    return asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=1)))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Sure! Here is a detailed description of the image:\n\nA dog lies on a couch.", "A dog lies on a couch."),
        ("Certainly. In the image, you can see two children on a field.", "Two children on a field."),
        ("The image depicts a woman in a kitchen. She holds a cup.", "A woman in a kitchen. She holds a cup."),
        ("# Title\n\nThe photo captures a cat.", "A cat."),
        ("**Main subject:** A dog.\n\n**Details:**\n- A collar\n- A pillow", "A dog. A collar. A pillow."),
        ("1. A plate on a table\n2. Two slices\n3) A glass", "A plate on a table. Two slices. A glass."),
        ("* bicycle (1) - center\n* trees - tall and old ones", "Bicycle. Trees, tall and old ones."),
        ("**Colors:** green, brown\n**Mood:** calm\nA tree.", "A tree."),
        ("A street. The overall mood is lively. The lighting is soft. Overall, it is nice.", "A street."),
        ("There's a plant. It's on the left.", "There is a plant. It is on the left."),
        ("It appears to be a sunny day. The men seem to be waiting.", "It is a sunny day. The men are waiting."),
        ("A clock tower, possibly Big Ben. It seems that a man waves.", "A clock tower. A man waves."),
        ("A dog on a *green* couch, `really`.", "A dog on a green couch, really."),
        ("A dog. Let me know if you need more! Would you like a shorter one?", "A dog."),
        ("```\nA dog.\n```\n---", "A dog."),
        ("In this photograph, a dog sits on a couch.", "A dog sits on a couch."),
        ("In the image there is a dog.", "There is a dog."),
        ("A man, possibly a chef, stands at a stove, and a dog sits.", "A man stands at a stove, and a dog sits."),
        ("Trees line the road, creating a calm atmosphere.", "Trees line the road."),
        ("I can't name him. The image shows a man in a suit.", "A man in a suit."),
    ],
)  # fmt: skip
def test_only_what_is_to_be_seen_is_left(text: str, left: str) -> None:
    assert described(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "A man in a red shirt throws a frisbee.",
        "The light blue car is parked in front of a house at 5 p.m. today.",
        "a dog's bowl, 2 spoons and a well-known logo",
        "A sign that says: open 24 hours.",
        "Two dogs - a brown one and a white one - play.",
        "A snake_case name and 3 * 4 on a blackboard.",
        "The composer conducts; the perspective is unusual.",
        "In the viewfinder a bird is visible.",
        "In the drawing room, two people sit on a sofa.",
        "In the picture frame on the wall, a woman smiles.",
        "Great white shark swimming in blue water.",
        "Yes sign on a wall.",
        "A car waits at the junction, giving way to a bus.",
        "The theme park has a large ferris wheel.",
        "The note on the fridge says milk.",
        "The lighting fixture hangs from the ceiling.",
        "Please keep off the grass is written on a sign.",
        "A bus with number 12. The jersey shows number 7. A man runs.",
        "It appears happy.",
        "It is likely a market.",
    ],
)
def test_a_description_comes_back_as_it_is(text: str) -> None:
    assert described(text).lower() == text.lower()


def test_statements_of_a_list_in_markdown_are_weighed_like_all_others() -> None:
    """Marks, headings and greetings were statements: "there is a sure", ": * main subject"."""
    result = captioned("Sure!\n\n**Main subject:**\n- A brown dog on a grey couch\n- A window in the background")
    statements = [clause.statement for clause in result.clauses]
    assert "the dog is brown" in statements
    assert not any(sign in (statement or "") for statement in statements for sign in "*:!-")
    assert "sure" not in result.caption.lower()


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't help with that.", "I cannot identify people.", "As an AI, I …"]
)
def test_a_refusal_is_a_failure_and_no_caption(text: str) -> None:
    assert refuses(text)
    with pytest.raises(CaptionRefused, match="refused"):
        captioned(text)


def test_a_refusal_costs_a_committee_one_voice() -> None:
    members = [Member("blip", RuleGenerator(lambda _: "a dog")), Member("vlm", Chat(lambda _: "I'm sorry, I can't."))]
    pipeline = CaptionPipeline(Committee(members))
    result = asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=1)))
    assert result.degraded == ("vlm: The captioner refused to describe the image.",)
    assert "dog" in result.caption


def test_an_answer_that_says_nothing_of_the_image_is_a_failure() -> None:
    with pytest.raises(CaptionRefused, match="said nothing"):
        captioned("Sure! Let me know if you need more.")


@pytest.mark.parametrize("text", ["great egret standing in shallow water", "sorry we're closed sign on a door"])
def test_models_that_don_t_chat_are_not_touched(text: str) -> None:
    """A sign's words were a refusal, and a bird a greeting."""
    pipeline = CaptionPipeline(RuleGenerator(lambda _: text))
    result = asyncio.run(pipeline.caption(PIXELS, options(strategy="basic", tidy=False)))
    assert result.caption.lower() == text


def test_blip_s_texts_are_not_touched() -> None:
    pipeline = CaptionPipeline(RuleGenerator(lambda _: "sure enough, there's a dog"))
    result = asyncio.run(pipeline.caption(PIXELS, options(strategy="basic", tidy=False)))
    assert result.caption == "Sure enough, there's a dog"
