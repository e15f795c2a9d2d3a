"""What both engines promise, on the embedded model."""

from __future__ import annotations

import asyncio
import time

import pytest
import torch
from PIL import Image
from transformers import BlipProcessor

from lab import held_out
from serve_app.engine import Loaded, ReferenceGenerator
from serve_app.engine.checkpoint import DEMO_DIRECTORY
from serve_app.errors import DeadlineExceeded, GenerationFailed, PromptTooLong
from serve_app.pipeline import Presets
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.types import Generated, GenerateJob, GenerationParameters, Generator, Pixels

GREEDY = GenerationParameters(max_length=60, num_beams=1, do_sample=False)
SAMPLED = Presets().variant
ENDLESS = GenerationParameters(max_length=500, min_length=499, num_beams=8, do_sample=False)


@pytest.mark.parametrize("prompt", ["", "a photography of", "a detailed photography of"])
@pytest.mark.parametrize("beams", [1, 3])
async def test_same_text_as_transformers_with_its_own_processor(
    loaded: Loaded, either: Generator, sample: Pixels, prompt: str, beams: int
) -> None:
    processor = BlipProcessor.from_pretrained(str(DEMO_DIRECTORY))
    inputs = processor(images=Image.open(held_out.SAMPLE), text=prompt or None, return_tensors="pt")
    with torch.inference_mode():
        ids = loaded.model.generate(**inputs, max_length=60, num_beams=beams, do_sample=False)[0]
    parameters = GenerationParameters(max_length=60, num_beams=beams, do_sample=False)
    (outcome,) = await either.generate(sample, [GenerateJob(prompt, parameters)])
    assert isinstance(outcome, Generated)
    assert outcome.text == processor.decode(ids, skip_special_tokens=True)


async def test_sampling_repeats_with_its_seed_whatever_runs_beside_it(either: Generator, sample: Pixels) -> None:
    wild = GenerationParameters(max_length=40, num_beams=1, do_sample=True, temperature=3.0)
    job = GenerateJob("a photography of", wild, seed=5)
    alone = await either.generate(sample, [job])
    among = await either.generate(sample, [GenerateJob("", wild, seed=1), job, GenerateJob("", wild, seed=2)])
    other = await either.generate(sample, [GenerateJob("a photography of", wild, seed=6)])
    assert alone[0] == among[1]
    assert alone[0] != other[0]


async def test_global_random_state_is_left_alone(either: Generator, sample: Pixels) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    await either.generate(sample, [GenerateJob("", SAMPLED, seed=9), GenerateJob("", GREEDY)])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [505, 509, 510, 511, 512, 600, 5000])
async def test_prompts_around_the_last_position_never_crash(either: Generator, sample: Pixels, count: int) -> None:
    """A prompt that fills the 512 positions used to end in an index error inside the model."""
    parameters = GenerationParameters(max_length=600, num_beams=2, do_sample=False)
    (outcome,) = await either.generate(sample, [GenerateJob(" ".join(["dog"] * count), parameters)])
    assert isinstance(outcome, Generated if count < 511 else PromptTooLong)


async def test_prompt_longer_than_max_length_is_told_and_its_neighbours_run(either: Generator, sample: Pixels) -> None:
    jobs = [GenerateJob("dog " * 150, SAMPLED), GenerateJob("a photography of", GREEDY)]
    long, fine = await either.generate(sample, jobs)
    assert isinstance(long, PromptTooLong)
    assert isinstance(fine, Generated)


async def test_new_tokens_are_capped(either: Generator, sample: Pixels) -> None:
    few = GenerationParameters(max_new_tokens=2, num_beams=1, do_sample=False)
    (outcome,) = await either.generate(sample, [GenerateJob("a photography of", few)])
    assert isinstance(outcome, Generated)
    assert outcome.tokens == 2


async def test_deadline_ends_the_running_job_and_those_behind_it(either: Generator, sample: Pixels) -> None:
    start = time.monotonic()
    outcomes = await either.generate(sample, [GenerateJob("", ENDLESS)] * 3, timeout_s=0.3)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 3
    assert time.monotonic() - start < 3


async def test_cancelling_frees_the_engine_at_once(either: Generator, sample: Pixels) -> None:
    task = asyncio.create_task(either.generate(sample, [GenerateJob("", ENDLESS)] * 50))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    start = time.monotonic()
    await either.generate(sample, [GenerateJob("", GREEDY)])
    assert time.monotonic() - start < 5


async def test_event_loop_stays_free_while_it_generates(either: Generator, sample: Pixels) -> None:
    task = asyncio.create_task(either.generate(sample, [GenerateJob("", ENDLESS)], timeout_s=1.5))
    beats = 0
    while not task.done():
        await asyncio.sleep(0.02)
        beats += 1
    assert beats > 15


async def test_error_in_the_model_is_a_sentence_and_the_engine_goes_on(
    loaded: Loaded, reference: ReferenceGenerator, sample: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(loaded.model), "generate", lambda *_, **__: 1 / 0)
        (outcome,) = await reference.generate(sample, [GenerateJob("", GREEDY)])
    assert isinstance(outcome, GenerationFailed)
    assert "division" not in outcome.message
    (after,) = await reference.generate(sample, [GenerateJob("", GREEDY)])
    assert isinstance(after, Generated)


@pytest.mark.parametrize("beams", [1, 4])
async def test_further_sequences_are_alternatives(either: Generator, sample: Pixels, beams: int) -> None:
    several = GenerationParameters(
        max_length=30, num_beams=beams, do_sample=True, temperature=3.0, num_return_sequences=3
    )
    (outcome,) = await either.generate(sample, [GenerateJob("a photography of", several, 1)])
    assert isinstance(outcome, Generated)
    assert len(outcome.alternatives) == 2
    scores = [one.log_probability for one in (outcome, *outcome.alternatives)]
    assert scores == [None] * 3 if beams == 1 else sorted(scores, reverse=True)  # type: ignore[type-var]


async def test_control_tokens_in_a_prompt_are_plain_text(either: Generator, sample: Pixels) -> None:
    """ "[SEP]" in a prompt used to become the end token, and "[PAD]" was hidden from the model."""
    (outcome,) = await either.generate(sample, [GenerateJob("a dog [SEP] [PAD] cat", GREEDY)])
    assert isinstance(outcome, Generated)
    assert outcome.prompt.replace(" ", "").startswith("adog")
    assert "cat" in outcome.prompt
    assert len(outcome.prompt.split()) > 3


async def test_both_engines_say_the_same(generator: Generator, reference: Generator, sample: Pixels) -> None:
    jobs = [GenerateJob(prompt, SAMPLED, seed) for seed, prompt in enumerate(VARIANT_PROMPTS)]
    ours, theirs = await generator.generate(sample, jobs), await reference.generate(sample, jobs)
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, Generated)
        assert isinstance(other, Generated)
        assert (one.text, one.tokens) == (other.text, other.tokens)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-3)
