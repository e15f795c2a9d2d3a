"""Rounds that ask: what is asked, what answers say, and that they pass the gate like everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from serve_app.errors import DeadlineExceeded, GeneratorUnavailable, InvalidOption, NotDeployed, PromptTooLong
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.pipeline.asking import BACK, BY_ROUND, most_questions
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.pipeline.questions import Question, asked_back, questions_about, yes
from serve_app.service import CaptionService
from serve_app.steps import ONLY, Answered, Step
from serve_app.task_types import Answer
from serve_app.types import CaptionResult, ModelInfo, Pixels
from tests.unit.fakes import INFO, PIXELS, RuleGenerator, options
from tests.unit.test_api import PNG, assert_problem
from tests.unit.test_grounded import RIGHT, WRONG, RuleMatcher, believes


class ScriptedAnswerer:
    """Answers by a rule, and keeps what it was asked; a rule may raise."""

    def __init__(self, rule: Callable[[str], str], probability: float = 0.9) -> None:
        self.calls: list[list[str]] = []
        self._rule, self._probability = rule, probability

    async def info(self) -> ModelInfo:
        return INFO

    async def answers(self, pixels: Pixels, questions: Sequence[str], timeout_s: float | None = None) -> list[Answer]:
        self.calls.append(list(questions))
        return [Answer(self._rule(question), self._probability) for question in questions]


def caption(
    text: str,
    answerer: ScriptedAnswerer | None,
    matcher: RuleMatcher | None = None,
    rounds: int = 2,
    steps: list[Step] | None = None,
    **changes: object,
) -> CaptionResult:
    """The caption of one variant, with a matcher that believes everything unless one is given."""
    prompt = VARIANT_PROMPTS[0]
    generator = RuleGenerator(lambda asked: f"{prompt} {text}" if asked == prompt else asked)
    pipeline = CaptionPipeline(generator, matcher=matcher or RuleMatcher(believes), answerer=answerer)
    given = options(strategy="grounded", rounds=rounds, prompts=(prompt,), **changes)
    return asyncio.run(pipeline.caption(PIXELS, given, steps.append if steps is not None else None))


def told(answers: dict[str, str]) -> ScriptedAnswerer:
    return ScriptedAnswerer(lambda question: answers.get(question, "unknown"))


# What is asked


@pytest.mark.parametrize(
    ("text", "asked", "not_asked"),
    [
        ("dogs playing with a ball", ["how many dogs are there?", "what color are the dogs?"],
         ["what are the dogs doing?"]),
        ("two brown dogs", ["what are the dogs doing?", "where are the dogs?"], ["how many dogs are there?"]),
        ("a man riding a horse on a beach", ["what is the man wearing?"],
         ["where is the man?", "what size is the man?"]),
        ("a man wearing a hat", ["where is the man?"], ["what is the man wearing?"]),
        ("a large wooden table", ["what color is the table?"],
         ["what size is the table?", "what is the table made of?"]),
        ("the man is surfing", ["where is the man?"], ["what is the man doing?"]),
        ("a group of people in a kitchen", ["what are the people doing?"], ["how many people are there?"]),
        ("a man wearing glasses", [], ["how many glasses are there?", "what size are the glasses?"]),
        ("a large kitchen", [], ["where is the kitchen?"]),
        ("a dog on the green grass", ["what color is the dog?"], ["what is the background?", "where is the dog?"]),
        ("a dog in the top left", ["what is the background?"], ["where is the dog?"]),
        ("a dog next to a dog", [], ["where is the dog?", "what color is the dog?"]),
        ("a photo of a dog", ["where is the dog?"], ["where is the photo?"]),
    ],
)  # fmt: skip
def test_what_is_asked_is_what_is_not_known(text: str, asked: list[str], not_asked: list[str]) -> None:
    found = [question.text for question in questions_about(read(text))]
    assert len(found) == len(set(found))
    assert set(asked) <= set(found)
    assert not set(not_asked) & set(found)


def test_what_tells_most_is_asked_first() -> None:
    found = [question.text for question in questions_about(read("cats and dogs"))]
    assert (
        found.index("how many dogs are there?")
        < found.index("where are the dogs?")
        < found.index("what color are the dogs?")
    )


# What answers say

DOG = {"name": "dog", "say": "{a} {answer} {name}"}


@pytest.mark.parametrize(
    ("question", "answers"),
    [
        (Question("what color is the dog?", takes="colour", **DOG), {
            "brown": "a brown dog", "Black and white.": "a black and white dog", "orange": "an orange dog",
            "large": None, "dog": None, "none": None, "yes": None, "": None, "brown " * 20: None,
        }),
        (Question("how many dogs are there?", "dogs", True, "number", "{answer} {name}"), {
            "two": "two dogs", "4": "four dogs", "one": None, "0": None, "many": None, "two dogs": None,
        }),
        (Question("where is the dog?", "dog", False, "place", "the {name} {be} {answer}"), {
            "on the couch": "the dog is on the couch", "outside": "the dog is outside", "couch": None, "on": None,
        }),
        (Question("what is the background?", takes="thing", say="there {be} {answer} in the background"), {
            "beach": "there is a beach in the background", "trees": "there are trees in the background",
            "sky": "there is the sky in the background", "nothing": None, "unknown": None, "blue": None,
        }),
        (Question("where is the dog?", "dog", False, "place", "the {name} {be} {answer}"), {
            "on beach": "the dog is on a beach", "in sky": "the dog is in the sky", "on left": "the dog is on the left",
            "in front of house": "the dog is in front of a house", "in bed": "the dog is in bed",
            "on green grass": "the dog is on green grass", "near old tree": "the dog is near an old tree",
        }),
        (Question("what is the man doing?", "man", False, "action", "the {name} {be} {answer}"), {
            "swinging bat": "the man is swinging a bat", "playing tennis": "the man is playing tennis",
            "looking at camera": "the man is looking at the camera", "riding wave": "the man is riding a wave",
            "standing": "the man is standing", "tennis": None,
        }),
        (Question("what is the man wearing?", "man", False, "thing", "the {name} {be} wearing {answer}"), {
            "glasses": "the man is wearing glasses", "suit and tie": "the man is wearing a suit",
            "shorts": "the man is wearing shorts", "ski gear": "the man is wearing ski gear",
            "black": None, "black and white": None, "red hat": "the man is wearing a red hat",
        }),
        (Question("what is in the picture?", takes="thing", say="there {be} {answer}"), {
            "dog": "there is a dog", "two dogs": "there are two dogs", "dog and cat": "there are a dog and a cat",
            "trees": "there are trees", "2 dogs": "there are 2 dogs",
        }),
        (Question("is anybody wearing a helmet?"), {"yes": "somebody is wearing a helmet", "no": None, "man": None}),
        (Question("are there any people in the water?"), {"yes": "there are some people in the water"}),
        (Question("is the man wearing a helmet?"), {"yes": "the man is wearing a helmet"}),
        (Question("is the man wearing a hat or a cap?"), {"yes": None}),
        (Question("is the dog brown and white?"), {"yes": "the dog is brown and white"}),
        (Question("is the man wearing a tie, yes or no?"), {"yes": None}),
        (Question("what brand is the car?"), {"ford": None, "yes": None}),
    ],
)  # fmt: skip
def test_an_answer_is_a_sentence_of_its_kind_or_says_nothing(
    question: Question, answers: dict[str, str | None]
) -> None:
    assert {answer: question.statement(answer) for answer in answers} == answers


# In the caption


def test_answers_that_are_supported_join_the_caption_with_their_source() -> None:
    answerer = told(
        {"how many dogs are there?": "two", "what color are the dogs?": "brown", "where are the dogs?": "on a couch"}
    )
    steps: list[Step] = []
    result = caption("some dogs", answerer, steps=steps)
    assert result.caption == "Two brown dogs on a couch."
    sources = {clause.text: clause.source.prompt for clause in result.clauses if clause.source.kind == "answer"}
    assert sources == {
        "Two": "how many dogs are there?",
        "brown": "what color are the dogs?",
        "on a couch": "where are the dogs?",
    }
    accepted = {asked.question: asked.statement for asked in result.answers if asked.accepted}
    assert accepted["what color are the dogs?"] == "brown dogs"
    assert len(accepted) == 3
    assert [step.asked.question for step in steps if isinstance(step, Answered)] == answerer.calls[0]


def test_all_questions_of_a_round_are_one_call_and_none_is_asked_twice() -> None:
    answerer = told({"where is the dog?": "on a couch", "where is the cat?": "by a window"})
    caption("a dog and a cat", answerer, rounds=3)
    asked = [question for call in answerer.calls for question in call]
    assert len(answerer.calls) <= 2
    assert [len(call) <= most for call, most in zip(answerer.calls, BY_ROUND.values(), strict=False)]
    assert len(asked) == len(set(asked))


def test_answers_that_the_image_does_not_support_are_not_said() -> None:
    answerer = told({"what color is the dog?": "purple", "where is the dog?": "on the moon"})
    matcher = RuleMatcher(lambda text: WRONG if "purple" in text or "moon" in text else RIGHT)
    result = caption("a dog", answerer, matcher)
    assert result.caption == "A dog."
    assert {asked.statement for asked in result.answers if asked.statement} == {
        "a purple dog",
        "the dog is on the moon",
    }
    assert not any(asked.accepted for asked in result.answers)


def test_contradictions_lose_against_what_the_variants_say() -> None:
    answerer = told({"where is the dog?": "on the left", "what size is the dog?": "small"})
    result = caption("a large dog on the right", answerer)
    assert "small" not in result.caption
    assert "left" not in result.caption


@pytest.mark.parametrize("answer", ["yes", "no", "unknown", "", "[SEP]", "dog dog dog dog", "a dog"])
def test_an_answerer_that_always_says_the_same_adds_nothing(answer: str) -> None:
    plain = caption("a dog", None).caption
    assert caption("a dog", ScriptedAnswerer(lambda _: answer)).caption == plain


def test_unsure_answers_are_none() -> None:
    answerer = ScriptedAnswerer(lambda _: "brown", probability=0.2)
    result = caption("a dog", answerer)
    assert result.caption == "A dog."
    assert {asked.statement for asked in result.answers} == {None}


@pytest.mark.parametrize(
    "error", [GeneratorUnavailable("No answerer replica could be reached."), DeadlineExceeded("Too late.")]
)
def test_a_lost_answerer_costs_what_it_would_have_said(error: Exception) -> None:
    def lost(_: str) -> str:
        raise error

    result = caption("a dog", ScriptedAnswerer(lost))
    assert (result.caption, result.answers) == ("A dog.", ())
    assert result.degraded == (f"questions: {error}",)


def test_without_a_matcher_the_caption_is_never_worse() -> None:
    prompt = VARIANT_PROMPTS[0]
    answerer = told({"what color is the dog?": "purple"})
    pipeline = CaptionPipeline(RuleGenerator(lambda asked: f"{prompt} a dog"), answerer=answerer)
    given = options(strategy="grounded", rounds=2, prompts=(prompt,))
    assert "purple" not in asyncio.run(pipeline.caption(PIXELS, given)).caption


# Statements that are asked back


@pytest.mark.parametrize(
    ("statement", "question"),
    [
        ("there is a dog", "is there a dog?"),
        ("there are two dogs", "are there two dogs?"),
        ("the dog is brown", "is the dog brown?"),
        ("the dogs are on the left", "are the dogs on the left?"),
        ("the dog is to the left of the cat", "is the dog to the left of the cat?"),
        ("a cloudy day", None),
        ("on the beach", None),
        ("the man who is standing is tall", None),
        ("the dog and the cat are on the left", None),
        ("the dog is on the left and small", "is the dog on the left and small?"),
        ("", None),
    ],
)
def test_statements_become_questions(statement: str, question: str | None) -> None:
    assert asked_back(statement) == question


def test_only_yes_and_no_say_how_likely_a_statement_is() -> None:
    assert yes("Yes.", 0.9) == 0.9
    assert yes("no", 0.9) == pytest.approx(0.1)
    assert yes("brown", 0.9) is yes("", 0.9) is None


def half_sure(text: str) -> float:
    return 0.2 if "hat" in text else RIGHT


@pytest.mark.parametrize(("answer", "said"), [("yes", True), ("no", False)])
def test_a_doubtful_statement_stands_or_falls_with_the_answer(answer: str, said: bool) -> None:
    """The matcher alone could not tell whether a thing was there, although another model knew."""
    answerer = told({"is there a hat?": answer})
    result = caption("a dog and a hat", answerer, RuleMatcher(half_sure))
    assert ("hat" in result.caption) == said
    assert "is there a dog?" not in answerer.calls[0], "what is sure is not asked"
    (asked,) = (asked for asked in result.answers if asked.question == "is there a hat?")
    assert (asked.statement, asked.accepted) == (("there is a hat", True) if said else (None, False))


def test_no_answer_leaves_a_doubtful_statement_as_it_was() -> None:
    plain = caption("a dog and a hat", None, RuleMatcher(half_sure))
    for answer in ("unknown", "maybe", ""):
        asked = caption("a dog and a hat", ScriptedAnswerer(lambda _, said=answer: said), RuleMatcher(half_sure))
        assert asked.caption == plain.caption
        assert asked.clauses == plain.clauses


def test_statements_are_asked_back_within_bounds() -> None:
    things = ["hat", "cup", "box", "car", "key", "pen", "map", "bag", "bed", "fan", "jar", "lid", "mug"]
    text = f"a dog with {' and '.join(f'a {thing}' for thing in things)}"
    answerer = told({})
    caption(text, answerer, RuleMatcher(lambda _: 0.5))
    assert 0 < len(answerer.calls[0]) <= BACK
    for changes in ({"rounds": 1}, {"ask": False}):
        answerer = told({})
        caption(text, answerer, RuleMatcher(lambda _: 0.5), **changes)
        assert answerer.calls == []


def test_a_caller_s_question_is_not_asked_twice() -> None:
    answerer = told({"is there a hat?": "yes"})
    result = caption("a dog and a hat", answerer, RuleMatcher(half_sure), questions=("is there a hat?",))
    assert [asked.question for asked in result.answers].count("is there a hat?") == 1


def test_a_caller_s_questions_are_answered_where_the_captioner_knows_nothing() -> None:
    """They were dropped without a word."""
    result = caption("nothing that i know", told({"is it raining?": "yes"}), questions=("is it raining?",))
    assert [(asked.question, asked.answer) for asked in result.answers] == [("is it raining?", "yes")]
    assert result.caption == "Nothing that I know."


# What a caller asks for


def test_a_caller_s_own_questions_come_first_and_at_every_detail() -> None:
    answerer = told({"is anybody wearing a helmet?": "yes", "what brand is it?": "ford"})
    asked = ("is anybody wearing a helmet?", "what brand is it?")
    result = caption("a man on a street", answerer, rounds=1, questions=asked)
    assert answerer.calls == [list(asked)]
    assert [(found.answer, found.statement) for found in result.answers] == [
        ("yes", "somebody is wearing a helmet"),
        ("ford", None),
    ]


def test_yes_to_a_caller_s_question_is_said() -> None:
    answerer = told({"is the man wearing a helmet?": "yes", "is anybody wearing a helmet?": "yes"})
    for question, said in (
        ("is the man wearing a helmet?", "A man wearing a helmet on a street."),
        ("Is anybody wearing a helmet?", "A man on a street. There is also somebody wearing a helmet."),
    ):
        answerer = ScriptedAnswerer(lambda _: "yes")
        assert caption("a man on a street", answerer, rounds=1, questions=(question,)).caption == said


def test_a_caller_s_question_takes_no_other_s_place() -> None:
    answerer = told({"what color is the dog?": "brown", "where is the dog?": "on a couch"})
    asked = ("what color is the dog?",)
    assert caption("a dog", answerer, questions=asked).caption == "A brown dog on a couch."
    assert caption("a dog", answerer, rounds=1, ask=True, questions=asked).caption == "A brown dog on a couch."


def test_one_question_that_is_too_long_costs_the_others_nothing() -> None:
    def rule(question: str) -> str:
        if len(question) > 100:
            raise PromptTooLong("The question has 600 tokens and the model takes 512.")
        return "brown" if "color" in question else "unknown"

    result = caption("a dog", ScriptedAnswerer(rule), questions=("is it a dog?", "x" * 200))
    assert result.caption == "A brown dog."
    assert len(result.degraded) == 1


@pytest.mark.parametrize("number", ["a couple of", "a dozen", "a pair of"])
def test_numbers_of_several_words_are_left_alone(number: str) -> None:
    """They ended the request with a 500."""
    question = f"are there {number} dogs?"
    assert caption("dogs on a couch", told({question: "yes"}), questions=(question,)).caption == "Dogs on a couch."


def test_an_answer_about_an_object_is_not_said_of_its_holder() -> None:
    """It once read "There is also a small man holding a frisbee."."""
    text = "a dog on a couch and a man holding a frisbee"
    result = caption(text, told({"what size is the frisbee?": "small"}), rounds=3)
    assert "small man" not in result.caption


def test_only_grounded_asks() -> None:
    pipeline = CaptionPipeline(RuleGenerator(lambda asked: asked), answerer=told({}))
    with pytest.raises(InvalidOption, match="grounded"):
        asyncio.run(pipeline.caption(PIXELS, options(strategy="classic", questions=("a?",))))


def test_asking_can_be_turned_off_and_on() -> None:
    answerer = told({})
    caption("a dog", answerer, ask=False)
    caption("a dog", answerer, rounds=1)
    assert answerer.calls == []
    caption("a dog", answerer, rounds=1, ask=True)
    assert len(answerer.calls) == 1
    for changes in ({"ask": True}, {"questions": ("is it a dog?",)}):
        with pytest.raises(NotDeployed, match="answerer"):
            caption("a dog", None, **changes)


def test_questions_count_as_work() -> None:
    generator = RuleGenerator(lambda asked: asked)
    alone = CaptionPipeline(generator)
    asking = CaptionPipeline(generator, matcher=RuleMatcher(believes), answerer=told({}))
    for rounds, most in ((1, 0), (2, 6 + BACK), (3, 16 + BACK)):
        given = options(strategy="grounded", rounds=rounds)
        variants = alone.work(options(strategy="grounded", rounds=1))[ONLY]
        assert asking.work(given)[ONLY] - variants == most == most_questions(given), "no round prompts then"
    assert asking.work(options(rounds=3)) == alone.work(options(rounds=3)), "classic does not ask"


# Over HTTP


@asynccontextmanager
async def api(answerer: ScriptedAnswerer | None) -> AsyncIterator[httpx.AsyncClient]:
    pipeline = CaptionPipeline(
        RuleGenerator(lambda asked: f"{asked} a dog"), matcher=RuleMatcher(believes), answerer=answerer
    )
    service = CaptionService(pipeline, Limits(default_detail="medium"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test") as client:
        yield client
    service.close()


async def test_the_answer_and_its_events_tell_of_the_questions() -> None:
    answerer = told({"what color is the dog?": "brown", "is it a dog?": "no"})
    async with api(answerer) as client:
        form = {"questions": ["is it a dog?"], "prompts": ["a photo of"]}
        body = (await client.post("/v1/captions", files={"image": PNG}, data=form)).json()
        headers = {"accept": "text/event-stream"}
        events = await client.post("/v1/captions", files={"image": PNG}, data=form, headers=headers)
    assert body["caption"] == "A brown dog."
    assert body["answers"][0]["question"] == "is it a dog?"
    (said,) = [found for found in body["answers"] if found["accepted"]]
    assert said == {
        "question": "what color is the dog?",
        "answer": "brown",
        "probability": 0.9,
        "statement": "a brown dog",
        "accepted": True,
    }
    (clause,) = [each for each in body["clauses"] if each["source"]["kind"] == "answer"]
    assert (clause["text"], clause["source"]["prompt"]) == ("A brown", "what color is the dog?")
    assert body["answers"][clause["source"]["index"] - 1] == said
    assert events.text.count("event: answer") == len(body["answers"])


async def test_questions_without_a_model_for_them_are_told() -> None:
    async with api(None) as client:
        refused = await client.post("/v1/captions", files={"image": PNG}, data={"ask": "true"})
        assert "answerer" in assert_problem(refused, 404)["detail"]
        many = await client.post("/v1/captions", files={"image": PNG}, data={"questions": ["a?"] * 17})
        assert "questions" in assert_problem(many, 422)["detail"]
