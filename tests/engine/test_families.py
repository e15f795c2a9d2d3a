"""Captioners of every family by the engine `transformers`: tiny random checkpoints in the families' own files."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from lab import held_out
from serve_app.engine import captioner_info, check_captioner, open_captioner
from serve_app.engine.image_text import ImageTextGenerator
from serve_app.errors import (
    DeadlineExceeded,
    GeneratorUnavailable,
    InvalidOption,
    ModelError,
    ModelIncomplete,
    ModelUnsupported,
)
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, images
from serve_app.steps import ONLY
from serve_app.types import CaptionOptions, Generated, GenerateJob, GenerationParameters, Pixels
from tests.engine import foreign

BEAMS = GenerationParameters(max_length=12, num_beams=3, do_sample=True, num_return_sequences=2, length_penalty=2.0)


@pytest.fixture(scope="module", params=list(foreign.BUILD))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.build(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[ImageTextGenerator]:
    found = open_captioner(str(checkpoint))
    assert isinstance(found, ImageTextGenerator), "whatever engine is asked for, this one runs it"
    yield found
    found.close()


async def scene(engine: ImageTextGenerator) -> Pixels:
    return images.read(held_out.SAMPLE.read_bytes(), Limits(), await engine.info())


async def test_its_prompts_are_answered_and_a_seed_fixes_the_answers(engine: ImageTextGenerator) -> None:
    info, pixels = await engine.info(), await scene(engine)
    model, family = engine._captioner.model, engine._captioner.family
    has_beams = model.config.is_encoder_decoder or not family.is_language_model
    jobs = [GenerateJob(prompt, BEAMS, seed) for prompt in info.prompts for seed in (1, 2)]
    outcomes, again = [await engine.generate(pixels, jobs) for _ in range(2)]
    assert outcomes == again
    for outcome in outcomes:
        assert isinstance(outcome, Generated), outcome
        assert len(outcome.alternatives) == (1 if has_beams else 0)
        assert "<" not in outcome.prompt or outcome.text.startswith(outcome.prompt)
    assert len({outcome.text for outcome in outcomes if isinstance(outcome, Generated)}) > 1


def texts_of(outcome: Any) -> list[tuple[str, str, int]]:
    assert isinstance(outcome, Generated), outcome
    return [(each.text, each.prompt, each.tokens) for each in (outcome, *outcome.alternatives)]


async def test_prompts_that_run_together_say_what_they_say_alone(
    engine: ImageTextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, pixels = await engine.info(), await scene(engine)
    calls: list[int] = []
    whole = engine.together

    def together(pixels: Pixels, jobs: Any, interrupt: Any) -> Any:
        found = whole(pixels, jobs, interrupt)
        calls.append(len(jobs))
        return found

    monkeypatch.setattr(engine, "together", together)
    for parameters in (
        GenerationParameters(max_length=12, num_beams=1, do_sample=False),
        replace(BEAMS, do_sample=False),
    ):
        jobs = [GenerateJob(prompt, parameters) for prompt in (*info.prompts, info.prompts[-1])]
        alone = [(await engine.generate(pixels, [job]))[0] for job in jobs]
        assert list(map(texts_of, await engine.generate(pixels, jobs))) == list(map(texts_of, alone))
    if engine._captioner.family.is_language_model:
        assert calls == [len(jobs)] * 2, "in one call each"


async def test_a_prompt_stands_before_what_goes_on_with_it_and_in_no_other_answer(engine: ImageTextGenerator) -> None:
    (outcome,) = await engine.generate(await scene(engine), [GenerateJob("a photo of", BEAMS, 1)])
    assert isinstance(outcome, Generated), outcome
    assert outcome.prompt in ("", "a photo of")
    assert outcome.text.startswith(outcome.prompt)


async def test_what_takes_too_long_or_has_no_room_is_told(engine: ImageTextGenerator) -> None:
    pixels = await scene(engine)
    (late,) = await engine.generate(pixels, [GenerateJob("", BEAMS)], timeout_s=0)
    assert isinstance(late, DeadlineExceeded)
    (fine,) = await engine.generate(pixels, [GenerateJob("", GenerationParameters(max_length=4000, num_beams=1))])
    assert isinstance(fine, Generated), "never longer than the model's positions"


def test_what_fills_a_sequence_up_is_no_token_of_it(engine: ImageTextGenerator) -> None:
    """Each sequence had as many tokens as the longest, so that short ones counted as unlikely."""
    end, start, word = next(iter(engine._ends)), next(iter(engine._starts)), 12
    assert engine._result("", [], [start, word, word, end, 0, 0, 0], None).tokens == 3
    assert engine._result("", [], [start, word, word, word], None).tokens == 3
    assert engine._result("a", [7, 8], [7, 8, word, end, end], None).tokens == 2, "the prompt is none of it"


async def test_a_caller_s_control_tokens_are_refused(engine: ImageTextGenerator) -> None:
    """They ended in a traceback, or moved the picture."""
    (token, *_) = engine._captioner.tokenizer.all_special_tokens
    if engine._captioner.family.form == "none":
        return  # no prompt reaches the model
    (outcome,) = await engine.generate(await scene(engine), [GenerateJob(f"what is {token} this", BEAMS)])
    assert isinstance(outcome, InvalidOption), outcome


async def test_a_lost_device_is_told_to_the_health_check(
    engine: ImageTextGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise torch.AcceleratorError("device-side assert")

    engine.check_health()
    monkeypatch.setattr(engine, "_inputs", lost)
    monkeypatch.setattr(engine, "_lost", False)
    (outcome,) = await engine.generate(await scene(engine), [GenerateJob("", BEAMS)])
    assert isinstance(outcome, GeneratorUnavailable)
    with pytest.raises(GeneratorUnavailable):
        engine.check_health()


async def test_pictures_of_one_content_and_other_shapes_are_others(engine: ImageTextGenerator) -> None:
    info = await engine.info()
    first, second = (images.read(Image.new("RGB", size), Limits(), info) for size in ((40, 20), (20, 40)))
    assert first.digest != second.digest
    line = images.read(Image.new("RGB", (3000, 1)), Limits(), info)
    assert line.width <= 33 * line.height, "a processor enlarges the shorter side without bound"


async def test_pictures_keep_their_proportions(engine: ImageTextGenerator) -> None:
    info = await engine.info()
    wide = images.read(Image.new("RGB", (2000, 500)), Limits(), info)
    assert (wide.width, wide.height) == (info.image_width, info.image_width // 4)
    small = images.read(Image.new("RGB", (40, 20)), Limits(), info)
    assert (small.width, small.height) == (40, 20), "nothing is enlarged for the model's own processor"


@pytest.mark.parametrize("strategy", ["grounded", "classic", "basic"])
async def test_every_strategy_captions(engine: ImageTextGenerator, strategy: str) -> None:
    pipeline = CaptionPipeline(engine)
    options = CaptionOptions(strategy, 2, (), 0, 60.0)  # type: ignore[arg-type]
    result = await pipeline.caption(await scene(engine), options)
    assert not result.degraded
    info = await engine.info()
    if strategy != "basic":
        assert [variant.prompt for variant in result.variants] == list(info.prompts)
    if not info.continues:
        assert not [each for each in result.clauses if each.source.kind in ("extension", "round")]
    await pipeline.probe()
    if not info.continues:
        assert pipeline.work(options)[ONLY] <= len(info.prompts) * 8, "rounds that it does not run are no work"
    assert info.sequential


@pytest.fixture
async def client(engine: ImageTextGenerator) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(CaptionService(CaptionPipeline(engine)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_it_answers_over_http(client: httpx.AsyncClient, checkpoint: Path) -> None:
    response = await client.post("/v1/captions", files={"image": held_out.SAMPLE.read_bytes()}, data={"detail": "low"})
    assert response.status_code == 200, response.text
    assert response.json()["model"] == checkpoint.name


def test_files_say_what_is_known_before_loading(checkpoint: Path) -> None:
    check_captioner(str(checkpoint))
    info = captioner_info(str(checkpoint))
    assert info.fit == "longest"
    assert info.prompts
    assert len(info.revision) == 64


# What cannot be run ends in a sentence

Files = dict[str, str | None]


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return foreign.build("git", tmp_path_factory.mktemp("git"))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model_type": "bert"}, ModelUnsupported, "'bert', no image-to-text model"),
        ({"model_type": "moondream1", "auto_map": {"AutoModel": "m.M"}}, ModelUnsupported, "never run"),
        ({"model_type": "fuyu"}, ModelUnsupported, "say with the setting variant_prompts how it is asked"),
        ({"hidden_size": 24}, ModelIncomplete, "does not fit"),
    ],
)
def test_what_no_engine_runs_is_told(
    git: Path, tmp_path: Path, changes: dict[str, object], error: type[ModelError], said: str
) -> None:
    directory = Path(shutil.copytree(git, tmp_path / "model"))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(error, match=said) as raised:
        open_captioner(str(directory))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_half_a_checkpoint_is_told(git: Path, tmp_path: Path, file: str) -> None:
    directory = Path(shutil.copytree(git, tmp_path / "model"))
    whole = (directory / file).read_bytes()
    for content in (None, whole[: len(whole) // 2]):
        (directory / file).unlink() if content is None else (directory / file).write_bytes(content)
        with pytest.raises(ModelIncomplete):
            open_captioner(str(directory))


def test_8_bit_formats_are_the_decode_engine_s(git: Path) -> None:
    with pytest.raises(ModelUnsupported, match="int8"):
        open_captioner(str(git), dtype="int8")


async def test_a_family_that_nobody_knows_is_asked_by_the_settings_prompts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = str(foreign.build("blip-2", tmp_path))
    monkeypatch.setattr("serve_app.engine.image_text.FAMILIES", {})
    with pytest.raises(ModelUnsupported, match="variant_prompts"):
        open_captioner(directory)
    engine = open_captioner(directory, prompts=("describe it",))
    assert isinstance(engine, ImageTextGenerator)
    info = await engine.info()
    assert info.prompts == ("describe it",)
    (outcome,) = await engine.generate(await scene(engine), [GenerateJob("describe it", BEAMS)])
    assert isinstance(outcome, Generated)
    engine.close()


async def test_own_prompts_may_hold_control_tokens_which_a_request_s_may_not(tmp_path: Path) -> None:
    engine = open_captioner(str(foreign.build("florence2", tmp_path)), prompts=("<s>",))
    assert isinstance(engine, ImageTextGenerator)
    pixels = await scene(engine)
    own, other = await engine.generate(pixels, [GenerateJob("<s>", BEAMS), GenerateJob("</s>", BEAMS)])
    assert isinstance(own, Generated)
    assert isinstance(other, InvalidOption)
    engine.close()
