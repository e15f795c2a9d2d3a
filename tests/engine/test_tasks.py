"""Matching, embeddings and question answering on the embedded models, against transformers' own forward passes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from lab import captions, held_out, questions, statements
from lab.scenes import Scene
from lab.tasks import auc
from serve_app.engine import (
    AnswerEngine,
    MatchEngine,
    load_answerer,
    load_matcher,
    start_answerer,
    start_matcher,
)
from serve_app.engine.batcher import Batcher
from serve_app.engine.blip import ANSWERING, CAPTIONING, MATCHING
from serve_app.engine.checkpoint import resolve
from serve_app.engine.pixels import Normalizer
from serve_app.errors import (
    DeadlineExceeded,
    GenerationFailed,
    GeneratorUnavailable,
    ModelUnsupported,
    PromptTooLong,
)
from serve_app.limits import Limits
from serve_app.service import images
from serve_app.types import EngineLimits, ModelInfo, Pixels


def scenes(info: ModelInfo, count: int) -> list[tuple[Pixels, Scene]]:
    found = list(held_out.read())[:count]
    return [(images.read(file.read_bytes(), Limits(), info), scene) for file, scene in found]


@pytest.fixture
async def matcher() -> AsyncIterator[MatchEngine]:
    engine = start_matcher(load_matcher())
    yield engine
    engine.close()


@pytest.fixture
async def answerer() -> AsyncIterator[AnswerEngine]:
    engine = start_answerer(load_answerer())
    yield engine
    engine.close()


def texts_of(scene: Scene, count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [text for _ in range(count) for text in statements.pair(rng, scene)[1:]]


async def test_packed_texts_score_as_one_at_a_time_by_transformers(matcher: MatchEngine) -> None:
    loaded = load_matcher()
    model: Any = loaded.model
    ((pixels, scene),) = scenes(loaded.info, 1)
    texts = texts_of(scene, 40)
    found = await matcher.match(pixels, texts, similarity=True)
    image = Normalizer(loaded.mean, loaded.std, loaded.info)(pixels)
    for text, match in zip(texts, found, strict=True):
        inputs = loaded.tokenizer([text], return_tensors="pt")
        with torch.no_grad():
            itm = model(**inputs, pixel_values=image).itm_score
            itc = model(**inputs, pixel_values=image, use_itm_head=False).itm_score
        assert match.probability == pytest.approx(F.softmax(itm, 1)[0, 1].item(), abs=1e-4), text
        assert match.similarity == pytest.approx(itc.item(), abs=1e-4)


async def test_calls_of_many_requests_run_together_and_stay_apart(matcher: MatchEngine) -> None:
    info = await matcher.info()
    asked = [(pixels, texts_of(scene, 1 + index % 5)) for index, (pixels, scene) in enumerate(scenes(info, 12))]
    alone = [await matcher.match(pixels, texts) for pixels, texts in asked]
    together = await asyncio.gather(*(matcher.match(pixels, texts) for pixels, texts in asked))
    for one, other in zip(alone, together, strict=True):
        assert [match.probability for match in one] == pytest.approx([match.probability for match in other], abs=1e-4)


async def test_vectors_have_length_one_and_compare_as_matches_say(matcher: MatchEngine) -> None:
    ((pixels, scene),) = scenes(await matcher.info(), 1)
    texts = texts_of(scene, 3)
    image, vectors = await matcher.embed_image(pixels), np.array(await matcher.embed_texts(texts))
    assert len(image) == matcher.dimension == vectors.shape[1]
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    found = [match.similarity for match in await matcher.match(pixels, texts, similarity=True)]
    assert found == pytest.approx((vectors @ np.array(image)).tolist(), abs=1e-5)


async def test_an_image_is_encoded_once_and_the_cache_is_bounded() -> None:
    engine = start_matcher(load_matcher(), EngineLimits(max_image_cache_bytes=120_000))
    pictures = [pixels for pixels, _ in scenes(await engine.info(), 6)]
    for _ in range(3):
        await engine.match(pictures[0], ["a dog"])
    assert engine._images.encoded == 1
    for pixels in pictures:
        await engine.match(pixels, ["a dog"])
    assert engine._images.encoded == 6
    assert engine._images._bytes <= 120_000
    await engine.match(pictures[0], ["a dog"])
    assert engine._images.encoded == 7
    engine.close()


async def test_many_images_are_encoded_in_passes_that_say_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dozens of images in one pass took longer than a health check waits, and a busy replica was ended."""
    engine = start_matcher(load_matcher(), EngineLimits())
    pictures = [pixels for pixels, _ in scenes(await engine.info(), 20)]
    passes: list[int] = []
    monkeypatch.setattr(engine._batcher, "alive", lambda: passes.append(engine._images.encoded))
    states = engine._images(pictures, engine._batcher.alive)
    assert passes == [0, 8, 16]
    assert len(states) == engine._images.encoded == 20
    engine.close()


async def test_the_embedded_matcher_tells_true_from_swapped(matcher: MatchEngine) -> None:
    true, false = [], []
    for index, (pixels, scene) in enumerate(scenes(await matcher.info(), 60)):
        found = await matcher.match(pixels, texts_of(scene, 4, index))
        true += [match.probability for match in found[::2]]
        false += [match.probability for match in found[1::2]]
    assert auc(np.array(true), np.array(false)) > 0.93


def test_area_under_the_curve() -> None:
    assert auc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert auc(np.array([0.9, 0.1]), np.array([0.5])) == 0.5
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


async def test_answers_are_those_of_transformers_alone_and_in_a_batch(answerer: AnswerEngine) -> None:
    loaded = load_answerer()
    model: Any = loaded.model
    normalize = Normalizer(loaded.mean, loaded.std, loaded.info)
    rng = np.random.default_rng(0)
    asked = [(pixels, questions.ask(rng, scene)[1]) for pixels, scene in scenes(loaded.info, 20)]
    found = await asyncio.gather(*(answerer.answers(pixels, [question]) for pixels, question in asked))
    for (pixels, question), (answer,) in zip(asked, found, strict=True):
        inputs = loaded.tokenizer(question, return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, pixel_values=normalize(pixels), max_new_tokens=20, num_beams=1)
        assert answer.text == loaded.tokenizer.decode(ids[0], skip_special_tokens=True)
        assert 0 < answer.probability <= 1


async def test_the_embedded_answerer_is_mostly_right(answerer: AnswerEngine) -> None:
    rng = np.random.default_rng(1)
    asked = [
        (pixels, *questions.ask(rng, scene)[1:])
        for pixels, scene in scenes(await answerer.info(), 60)
        for _ in range(3)
    ]
    found = await asyncio.gather(*(answerer.answers(pixels, [question]) for pixels, question, _ in asked))
    right = sum(answer.text == want for (answer,), (_, _, want) in zip(found, asked, strict=True))
    assert right / len(asked) > 0.7


async def test_what_does_not_fit_is_refused(matcher: MatchEngine, answerer: AnswerEngine) -> None:
    ((pixels, _),) = scenes(await matcher.info(), 1)
    for call in (
        matcher.match(pixels, ["a dog", "dog " * 600]),
        answerer.answers(pixels, ["a", "a " * 600]),
    ):
        with pytest.raises(PromptTooLong, match="takes 512"):
            await call
    with pytest.raises(DeadlineExceeded):
        await matcher.match(pixels, ["a dog"] * 60, timeout_s=0)
    assert len(await matcher.match(pixels, ["a dog"])) == 1, "the engine goes on"


async def test_a_picture_of_another_model_s_size_is_brought_to_their_own(
    matcher: MatchEngine, answerer: AnswerEngine
) -> None:
    """Captioner, matcher and answerer had to take images of one size, or captions did without the other two."""
    ((pixels, scene),) = scenes(await matcher.info(), 1)
    image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data).resize(
        (384, 288), Image.Resampling.BICUBIC
    )
    other = Pixels("other", 288, 384, image.tobytes())
    texts = [captions.plain(scene), "a purple elephant on the moon"]
    own, sized = await matcher.match(pixels, texts), await matcher.match(other, texts)
    assert [each.probability for each in sized] == pytest.approx([each.probability for each in own], abs=0.1)
    asked = ["what is in the picture?"]
    assert (await answerer.answers(other, asked))[0].text == (await answerer.answers(pixels, asked))[0].text


async def test_of_a_long_text_the_beginning_is_embedded(matcher: MatchEngine) -> None:
    """Search over longer texts failed at the first one that has more tokens than the model takes."""
    long, longer = await matcher.embed_texts(["dog " * 600, "dog " * 600 + "cat " * 100])
    assert long == pytest.approx(longer, abs=1e-5)
    (short,) = await matcher.embed_texts(["a red square"])
    assert short != pytest.approx(long, abs=1e-2)


async def test_a_closed_engine_says_so() -> None:
    engine = start_matcher(load_matcher())
    ((pixels, _),) = scenes(await engine.info(), 1)
    engine.check_health()
    engine.close()
    with pytest.raises(GeneratorUnavailable):
        await engine.match(pixels, ["a dog"])


async def test_one_bad_job_of_a_batch_fails_alone(matcher: MatchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [pixels for pixels, _ in scenes(await matcher.info(), 4)]
    bad = Pixels("bad", pictures[0].height, pictures[0].width, b"")
    found = await asyncio.gather(
        *(matcher.match(pixels, ["a dog"]) for pixels in (*pictures, bad)), return_exceptions=True
    )
    assert [isinstance(one, Exception) for one in found] == [False] * 4 + [True]


def test_each_task_asks_for_its_own_architecture() -> None:
    for task, other in ((MATCHING, CAPTIONING), (ANSWERING, MATCHING), (CAPTIONING, ANSWERING)):
        with pytest.raises(ModelUnsupported, match=task.architecture):
            resolve(str(other.demo), task=task)
    with pytest.raises(ModelUnsupported, match="int8"):
        load_matcher(dtype="int8")


async def test_a_control_token_in_a_text_is_plain_text(matcher: MatchEngine, answerer: AnswerEngine) -> None:
    """ "[SEP]" in a question or a text ended it, and "[PAD]" was the token of padding."""
    assert matcher._encoded(["a dog [SEP] [PAD]"])[0].count(matcher._tokenizer.sep_token_id) == 1
    asked: list[list[int]] = []
    run = answerer._batcher._batches.run
    answerer._batcher._batches.run = lambda jobs: asked.extend(job.question for job in jobs) or run(jobs)  # type: ignore[func-returns-value]
    (picture, _), *_ = scenes(await answerer.info(), 1)
    await answerer.answers(picture, ["what is [SEP] here"])
    assert asked[0].count(answerer._tokenizer.sep_token_id) == 1


async def test_a_lost_device_ends_the_matcher(matcher: MatchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access nothing works any more in the process; matcher and answerer looked healthy for ever."""

    def lost(_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(matcher._batcher._batches, "run", lost)
    (picture, _), *_ = scenes(await matcher.info(), 1)
    matcher.check_health()
    with pytest.raises(GenerationFailed):
        await matcher.match(picture, ["a dog"])
    await asyncio.to_thread(matcher._batcher._worker._thread.join, 5)
    with pytest.raises(GeneratorUnavailable):
        matcher.check_health()
    with pytest.raises(GeneratorUnavailable):
        await matcher.match(picture, ["a dog"])


async def test_a_device_that_is_lost_while_jobs_are_retried_loses_no_job() -> None:
    """The jobs behind the one that met the loss were in no queue any more: their callers waited for ever."""
    release = threading.Event()

    def run(jobs: Sequence[int]) -> list[int]:
        release.wait(5)
        if len(jobs) > 1:
            raise RuntimeError("an odd failure")
        if jobs[0] == 1:
            raise torch.AcceleratorError("CUDA error")
        return [jobs[0]]

    batcher: Batcher[int, int] = Batcher(run, "test", 8)
    first = asyncio.ensure_future(batcher.submit(0))
    await asyncio.sleep(0.1)
    others = [asyncio.ensure_future(batcher.submit(number)) for number in (2, 1, 3, 4)]
    await asyncio.sleep(0.1)
    release.set()
    found = await asyncio.wait_for(asyncio.gather(first, *others, return_exceptions=True), 10)
    assert found[:2] == [0, 2]
    assert [type(error) for error in found[2:]] == [GenerationFailed, GeneratorUnavailable, GeneratorUnavailable]
    with pytest.raises(GeneratorUnavailable):
        batcher.check_health()


async def test_errors_of_many_callers_are_not_one_object() -> None:
    """Raised again and again it kept the frames of all its callers, with their images."""

    def run(jobs: Sequence[int]) -> list[int]:
        raise ValueError("no")

    batcher: Batcher[int, int] = Batcher(run, "test", 8)
    found = await asyncio.gather(*(batcher.submit(number) for number in range(3)), return_exceptions=True)
    assert len({id(error) for error in found}) == 3
    assert {type(error) for error in found} == {GenerationFailed}
    batcher.close()
