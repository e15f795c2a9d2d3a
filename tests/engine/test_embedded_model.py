"""What the embedded model says, through the whole pipeline."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lab import held_out
from lab.evaluate import GREEDY
from lab.objects import nouns_in
from lab.score import Score
from serve_app.engine import AsyncEngine, Loaded, load_matcher, start_matcher
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.service import CaptionService, images
from serve_app.types import Generated, GenerateJob
from tests.pictures import encoded


async def test_greedy_variants_name_what_is_there(loaded: Loaded, generator: AsyncEngine) -> None:
    """A floor below the measured figures of the README, for a wrong model or a wrong preprocessing."""
    score = Score()
    for file, scene in itertools.islice(held_out.read(), 40):
        pixels = images.read(file.read_bytes(), Limits(), loaded.info)
        outcomes = await generator.generate(pixels, [GenerateJob(prompt, GREEDY) for prompt in VARIANT_PROMPTS])
        score.add(scene, " ".join(outcome.text for outcome in outcomes if isinstance(outcome, Generated)))
    assert score.summary()["recall"] >= 0.9
    assert score.summary()["wrong"] <= 0.08


async def test_prompts_bring_out_different_parts_of_a_scene(loaded: Loaded, generator: AsyncEngine) -> None:
    pixels = images.read(held_out.SAMPLE.read_bytes(), Limits(), loaded.info)
    outcomes = await generator.generate(pixels, [GenerateJob(prompt, GREEDY) for prompt in ("", *VARIANT_PROMPTS)])
    assert (
        len({outcome.text.removeprefix("a photography of") for outcome in outcomes if isinstance(outcome, Generated)})
        == 5
    )


@pytest.mark.parametrize("change", ["screenshot", "bright", "jpeg", "stretched", "small", "noise"])
async def test_changed_files_of_a_scene_are_understood(loaded: Loaded, generator: AsyncEngine, change: str) -> None:
    found = there = 0
    for file, scene in itertools.islice(held_out.read(), 12):
        picture = _changed(Image.open(file).convert("RGB"), change)
        pixels = images.read(picture, Limits(), loaded.info)
        outcomes = await generator.generate(pixels, [GenerateJob(prompt, GREEDY) for prompt in VARIANT_PROMPTS])
        named = set().union(*(nouns_in(outcome.text) for outcome in outcomes if isinstance(outcome, Generated)))
        there += len(scene.nouns)
        found += len(scene.nouns & named)
    assert found / there >= 0.8


def _changed(picture: Image.Image, change: str) -> Image.Image:
    if change == "screenshot":
        window = Image.new("RGB", (picture.width + 24, picture.height + 24), (225, 225, 230))
        window.paste(picture, (12, 12))
        return window
    if change == "bright":
        return ImageEnhance.Brightness(picture).enhance(1.25)
    if change == "stretched":
        return picture.resize((picture.width * 2, picture.height * 2)).resize((300, 256))
    if change == "small":
        return picture.resize((100, 100))
    if change == "noise":
        noise = np.random.default_rng(0).normal(0, 8, (picture.height, picture.width, 3))
        return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    from io import BytesIO

    return Image.open(BytesIO(encoded(picture, "JPEG", quality=40)))


@pytest.mark.parametrize("kind", ["noise", "black", "gradient", "wide"])
async def test_pictures_of_something_else_go_through(generator: AsyncEngine, kind: str) -> None:
    rng = np.random.default_rng(1)
    arrays = {
        "noise": rng.integers(0, 256, (300, 400, 3), dtype=np.uint8),
        "black": np.zeros((50, 50, 3), np.uint8),
        "gradient": np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3)),
        "wide": rng.integers(0, 256, (4, 3000, 3), dtype=np.uint8),
    }
    matcher = start_matcher(load_matcher())
    service = CaptionService(CaptionPipeline(generator, matcher=matcher))
    body = await service.caption(arrays[kind], {"detail": "low"})
    service.close()
    matcher.close()
    assert isinstance(body.caption, str)
    assert body.degraded == []


async def test_same_request_same_answer(generator: AsyncEngine) -> None:
    service = CaptionService(CaptionPipeline(generator))
    data = held_out.SAMPLE.read_bytes()
    first = await service.caption(data, {})
    again = await service.caption(data, {})
    service.close()
    assert first.model_dump(exclude={"id", "timings_ms"}) == again.model_dump(exclude={"id", "timings_ms"})
