"""The decode engine on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import torch

from bench.random_blip import middle_config, random_blip
from serve_app.engine import AsyncEngine, Loaded, load
from serve_app.pipeline import CaptionPipeline
from serve_app.types import CaptionOptions, GenerationParameters
from tests.engine.engines import Bench, Request, ids, random_pictures, random_request, transformers_result

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def models() -> tuple[Loaded, Bench]:
    torch.backends.cuda.matmul.allow_tf32 = False
    return (random_blip(middle_config(), device="cuda"), Bench(random_blip(middle_config(), device="cuda")))


def draws(count: int) -> list[Request]:
    rng = random.Random(5)
    pictures = random_pictures(64, 4)
    return [random_request(rng, pictures, 1998, 2000) for _ in range(count)]


@pytest.mark.parametrize("number", range(30))
def test_same_ids_as_transformers(models: tuple[Loaded, Bench], number: int) -> None:
    loaded, bench = models
    request = draws(30)[number]
    assert ids(bench.alone(request)) == [found for found, _ in transformers_result(loaded, request)]


def test_graphs_find_what_plain_steps_find(models: tuple[Loaded, Bench]) -> None:
    _, bench = models
    plain = Bench(random_blip(middle_config(), device="cuda"))
    plain.engine._graphs = None
    bench.results.clear()
    requests = draws(25)
    for number, request in enumerate(requests):
        bench.submit(number, request)
        bench.engine.step()
    bench.run()
    for number, request in enumerate(requests):
        assert ids(bench.results[number]) == ids(plain.alone(request)), request


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_finishes_and_leaks_nothing(dtype: str) -> None:
    bench = Bench(random_blip(middle_config(), dtype, "cuda"))
    greedy = GenerationParameters(max_length=30, num_beams=1, do_sample=False)
    for number, request in enumerate(draws(20)):
        bench.submit(number, request)
        bench.submit(100 + number, replace(request, prompt=[1998], parameters=greedy))
    bench.run()
    assert all(ids(result) for result in bench.results.values())


async def test_pipeline_on_the_embedded_model() -> None:
    engine = AsyncEngine(load("demo", device="cuda"))
    pipeline = CaptionPipeline(engine)
    options = CaptionOptions("classic", 3, (), 0, 60.0)
    results = await asyncio.gather(*(pipeline.caption(picture, options) for picture in random_pictures(128, 8)))
    assert all(result.caption and not result.degraded for result in results)
    engine.close()
    engine.check_integrity()
