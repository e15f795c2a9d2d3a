"""The classic and basic strategies over a rule-driven generator."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import DeadlineExceeded, GenerationFailed, InvalidOption, PromptTooLong, ServiceError
from serve_app.pipeline import CaptionPipeline, Presets
from serve_app.pipeline.context import stream_seed
from serve_app.pipeline.presets import EXTENSION_PROMPTS, ROUND_PROMPT, VARIANT_PROMPTS
from serve_app.types import LEFT_OUT, TOO_LONG
from tests.unit.fakes import PIXELS, RuleGenerator, options

SENTENCE = "a brown dog and a white cat lie together on the old green couch near a window"  # 17 words
EXTRA = "with a small red ball and three wooden toys beside them"  # 11 words


def rule_of(variant: str, extension: str = "", later: str = "") -> RuleGenerator:
    """Echoes each prompt, as BLIP does, and continues it."""

    def rule(prompt: str) -> str:
        if prompt in VARIANT_PROMPTS:
            return f"{prompt} {variant}"
        if prompt.startswith(ROUND_PROMPT.split("{")[0]):
            return f"{prompt} {later}"
        return f"{prompt} {extension}"

    return RuleGenerator(rule)


async def test_variants_travel_in_one_call_with_the_preset_parameters() -> None:
    generator = rule_of(SENTENCE)
    await CaptionPipeline(generator).caption(PIXELS, options(rounds=1))
    (jobs,) = generator.calls
    assert [job.prompt for job in jobs] == list(VARIANT_PROMPTS)
    assert {job.parameters for job in jobs} == {Presets().variant}


async def test_random_streams_differ_by_variant_and_step_and_repeat_for_the_same_request() -> None:
    first, second = rule_of(SENTENCE), rule_of(SENTENCE)
    for generator in (first, second):
        await CaptionPipeline(generator).caption(PIXELS, options())
    seeds = [job.seed for call in first.calls for job in call]
    assert len(set(seeds)) == len(seeds) == 6
    assert seeds == [job.seed for call in second.calls for job in call]


@pytest.mark.parametrize(
    "change", [(1, "d", "variant", 0), (0, "e", "variant", 0), (0, "d", "round 2", 0), (0, "d", "variant", 1)]
)
def test_stream_seed_depends_on_each_of_its_parts(change: tuple[int, str, str, int]) -> None:
    assert stream_seed(*change) != stream_seed(0, "d", "variant", 0)
    assert 0 <= stream_seed(*change) < 2**63


async def test_accepted_rounds_grow_the_caption_and_name_their_clauses() -> None:
    result = await CaptionPipeline(rule_of(SENTENCE, later=EXTRA)).caption(PIXELS, options(tidy=False))
    assert [entry.accepted for entry in result.rounds] == [True, True]
    assert result.caption.count("wooden toys") == 2
    assert [(clause.source.kind, clause.source.index) for clause in result.clauses][-2:] == [("round", 2), ("round", 3)]
    assert result.clauses[-1].text == EXTRA
    assert all(clause.text == result.caption[clause.start : clause.end] for clause in result.clauses)
    assert result.degraded == ()


async def test_round_that_adds_eight_words_is_refused_and_nine_are_taken() -> None:
    eight, nine = "one two three four five six seven eight", "one two three four five six seven eight nine"
    refused = await CaptionPipeline(rule_of(SENTENCE, later=eight)).caption(PIXELS, options(rounds=2))
    taken = await CaptionPipeline(rule_of(SENTENCE, later=nine)).caption(PIXELS, options(rounds=2))
    assert not refused.rounds[0].accepted
    assert "eight" not in refused.caption
    assert taken.rounds[0].accepted
    assert taken.caption.endswith("nine.")


async def test_short_merge_is_extended_and_a_long_one_is_not() -> None:
    short = rule_of("a brown dog on the couch", extension=EXTRA)
    result = await CaptionPipeline(short).caption(PIXELS, options(rounds=1))
    assert len(short.calls[1]) == len(EXTENSION_PROMPTS)
    assert result.caption == f"A brown dog on the couch {EXTRA}."
    assert (result.clauses[-1].source.kind, result.clauses[-1].source.index) == ("extension", 1)
    long = rule_of(SENTENCE, extension=EXTRA)
    await CaptionPipeline(long).caption(PIXELS, options(rounds=1))
    assert len(long.calls) == 1


async def test_no_usable_variant_still_tries_the_extension() -> None:
    result = await CaptionPipeline(rule_of("a dog", extension=EXTRA)).caption(PIXELS, options(rounds=1))
    assert result.caption.lower() == f"{EXTRA}."


async def test_one_lost_variant_is_left_out_and_named() -> None:
    def rule(prompt: str) -> str | Exception:
        return GenerationFailed("The model failed.") if prompt == VARIANT_PROMPTS[1] else f"{prompt} {SENTENCE}"

    result = await CaptionPipeline(RuleGenerator(rule)).caption(PIXELS, options(rounds=1))
    assert result.degraded == ("variant 2: The model failed.",)
    assert [bool(variant.text) for variant in result.variants] == [True, False, True, True]
    assert "brown dog" in result.caption


async def test_all_variants_lost_is_an_error() -> None:
    with pytest.raises(PromptTooLong):
        await CaptionPipeline(RuleGenerator(lambda _: PromptTooLong("too long"))).caption(PIXELS, options())


async def test_lost_round_keeps_the_caption_and_says_so() -> None:
    def rule(prompt: str) -> str | Exception:
        return DeadlineExceeded() if ":" in prompt else f"{prompt} {SENTENCE}"

    result = await CaptionPipeline(RuleGenerator(rule)).caption(PIXELS, options())
    assert "brown dog" in result.caption
    assert result.degraded == ("round 2: The request's time limit was reached.",)
    assert result.rounds == ()


async def test_unreachable_generator_in_a_round_degrades() -> None:
    class FailsLater(RuleGenerator):
        async def generate(self, *arguments: object, **named: object) -> object:  # type: ignore[override]
            if self.calls:
                raise ServiceError("No caption replica could be reached.")
            return await super().generate(*arguments, **named)  # type: ignore[arg-type]

    generator = FailsLater(lambda prompt: f"{prompt} {SENTENCE}")
    result = await CaptionPipeline(generator).caption(PIXELS, options())  # type: ignore[arg-type]
    assert result.degraded == ("round 2: No caption replica could be reached.",)


async def test_time_that_is_up_before_a_round_returns_the_caption_so_far() -> None:
    generator = RuleGenerator(lambda prompt: f"{prompt} {SENTENCE}", delay_s=0.05)
    result = await CaptionPipeline(generator).caption(PIXELS, options(timeout_s=0.04))
    assert "brown dog" in result.caption
    assert result.degraded == ("round 2: The request's time limit was reached.",)


async def test_cancellation_reaches_the_generator() -> None:
    generator = RuleGenerator(lambda prompt: prompt, delay_s=30)
    task = asyncio.create_task(CaptionPipeline(generator).caption(PIXELS, options()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert generator.cancelled == 1


async def test_basic_is_one_unconditional_generate_cleaned() -> None:
    generator = RuleGenerator(lambda prompt: "a picture of a dog")
    result = await CaptionPipeline(generator).caption(PIXELS, options(strategy="basic"))
    assert result.caption == "A dog."
    assert [[job.prompt for job in call] for call in generator.calls] == [[""]]


async def test_own_prompts_replace_the_presets_and_their_echo_goes() -> None:
    generator = RuleGenerator(lambda prompt: f"{prompt} {SENTENCE}")
    result = await CaptionPipeline(generator).caption(PIXELS, options(prompts=("here we see",), rounds=1))
    assert result.caption == f"{SENTENCE.capitalize()}."
    assert [variant.prompt for variant in result.variants] == ["here we see"]


def test_presets_change_by_name_only() -> None:
    assert Presets().override({"variant": {"num_beams": 3}}).variant.num_beams == 3
    assert Presets().override({"variant": {"num_beams": 3}}).variant.max_length == 150
    with pytest.raises(InvalidOption, match="no preset 'variants'"):
        Presets().override({"variants": {}})
    with pytest.raises(InvalidOption, match="beams"):
        Presets().override({"variant": {"beams": 3}})


SHORT = "a brown dog and a white cat on an old couch"
GATHERED = dict(
    zip(
        VARIANT_PROMPTS,
        (
            SHORT,
            "two pillows beside a wooden table",
            "a tall lamp near a green curtain",
            "a green curtain beside a mirror",
        ),
        strict=True,
    )
)


async def gathered(**changes: object) -> str:
    def rule(prompt: str) -> str:
        return f"{prompt} {GATHERED[prompt]}" if prompt in GATHERED else prompt

    pipeline = CaptionPipeline(RuleGenerator(rule))
    return (await pipeline.caption(PIXELS, options(rounds=1, **changes))).caption


async def test_the_word_list_of_the_reference_comes_only_where_its_text_is_asked_for() -> None:
    """A third of the captions of photographs began with "The image shows w1, w2, …" and none ended."""
    assert await gathered() == f"{SHORT.capitalize()}."
    reference = await gathered(tidy=False)
    assert reference.startswith("The image shows brown, white, couch, ")
    assert reference.endswith(SHORT[1:])


@pytest.mark.parametrize("strategy", ["basic", "classic"])
async def test_noise_goes_unless_the_reference_is_asked_for(strategy: str) -> None:
    generator = RuleGenerator(lambda prompt: "arafed dog in paris on a couch next to")
    tidy = await CaptionPipeline(generator).caption(PIXELS, options(strategy=strategy, rounds=1))
    assert tidy.caption == "A dog in Paris on a couch."
    plain = await CaptionPipeline(generator).caption(PIXELS, options(strategy=strategy, rounds=1, tidy=False))
    assert plain.caption == "Arafed dog in paris on a couch next to"


@pytest.mark.parametrize(
    ("said", "caption"),
    [
        ("a phone ( iphone ) in a green house", "A phone (iPhone) in a green house."),
        ("一个男人骑着马", "一个男人骑着马."),
        ("una mujer con un perro", "Una mujer con un perro."),
    ],
)
@pytest.mark.parametrize("strategy", ["basic", "grounded"])
async def test_tidy_changes_no_words(said: str, caption: str, strategy: str) -> None:
    """A green house became a greenhouse, and other languages got an English article."""
    result = await CaptionPipeline(RuleGenerator(lambda _: said)).caption(PIXELS, options(strategy=strategy, rounds=1))
    assert result.caption == caption


@pytest.mark.parametrize("tidy", [True, False])
async def test_a_length_is_kept_in_whole_statements(tidy: bool) -> None:
    generator = rule_of(SENTENCE)
    result = await CaptionPipeline(generator).caption(PIXELS, options(rounds=1, max_words=10, tidy=tidy))
    assert 0 < len(result.caption.split()) <= 10
    assert result.caption.rstrip(".").split()[-1] not in ("a", "the", "on", "near", "and")
    assert result.notices[0].startswith(LEFT_OUT)
    assert [clause.text for clause in result.clauses]


async def test_a_caption_that_stays_too_long_says_so() -> None:
    """Only `grounded` said it."""
    result = await CaptionPipeline(rule_of(SENTENCE)).caption(PIXELS, options(rounds=1, max_words=1))
    assert result.notices[-1] == TOO_LONG


async def test_a_shortened_caption_loses_its_end_and_keeps_its_sources() -> None:
    """Words of the first variant were said to come from the last round, and a later thing's place went to the first."""
    generator = rule_of(SENTENCE, later=" and a lamp on a table in a room")
    whole = await CaptionPipeline(generator).caption(PIXELS, options(rounds=2))
    assert [clause.source.kind for clause in whole.clauses] == ["variant", "round"]
    short = await CaptionPipeline(generator).caption(PIXELS, options(rounds=2, max_words=20))
    assert short.caption.startswith("A brown dog and a white cat")
    assert "table" not in short.caption
    assert [(clause.source.kind, clause.text) for clause in short.clauses] == [
        ("variant", "A brown dog and a white cat lie together on the old green couch near a window"),
        ("round", "and a lamp"),
    ]
    assert all(short.caption[clause.start : clause.end] == clause.text for clause in short.clauses)
