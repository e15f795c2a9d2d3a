"""The decode engine on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
import torch

from bench.random_blip import middle_config, random_blip
from serve_app.engine import AsyncEngine, Loaded, load
from serve_app.engine.device import Cuda
from serve_app.engine.engine import Engine
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.kernels.triton_kernels import TritonKernels
from serve_app.pipeline import CaptionPipeline
from serve_app.types import CaptionOptions, EngineLimits, GenerationParameters
from tests.engine.engines import Bench, Request, ids, random_pictures, random_request, transformers_result


class Eager(Cuda):
    """Each step as it comes, nothing captured."""

    captures = False
    ahead = 0


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def models() -> tuple[Loaded, Bench]:
    torch.backends.cuda.matmul.allow_tf32 = False
    bench = Bench(random_blip(middle_config(), device="cuda"))
    bench.engine.warm_up()
    return random_blip(middle_config(), device="cuda"), bench


def draws(count: int, sampled: bool = True) -> list[Request]:
    """Random numbers on a GPU are the engine's own: only what samples nothing is transformers' to the letter."""
    rng = random.Random(5)
    pictures = random_pictures(64, 4)
    found: list[Request] = []
    while len(found) < count:
        request = random_request(rng, pictures, 1998, 2000)
        if sampled or not request.parameters.do_sample:
            found.append(request)
    return found


@pytest.mark.parametrize("number", range(30))
def test_same_ids_as_transformers(models: tuple[Loaded, Bench], number: int) -> None:
    loaded, bench = models
    request = draws(30, sampled=False)[number]
    assert ids(bench.alone(request)) == [found for found, _ in transformers_result(loaded, request)]


def test_kernels_and_graphs_are_those_of_a_gpu(models: tuple[Loaded, Bench]) -> None:
    """They are replaced by slower ways, with a line in the log, where they do not work."""
    engine = models[1].engine
    assert isinstance(engine.decoder.kernels, TritonKernels)
    assert engine.graphs > 0
    assert engine.device.failures == 0


def test_graphs_find_what_plain_steps_find(models: tuple[Loaded, Bench]) -> None:
    _, bench = models
    plain = Bench(random_blip(middle_config(), device="cuda"))
    loaded = random_blip(middle_config(), device="cuda")
    plain.engine = Engine(loaded, EngineLimits(), Eager(torch.device("cuda", 0)), TorchKernels())
    bench.results.clear()
    requests = draws(25)
    for number, request in enumerate(requests):
        bench.submit(number, request)
        bench.engine.step()
    bench.run()
    for number, request in enumerate(requests):
        assert ids(bench.results[number]) == ids(plain.alone(request)), request


FP8 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="the card has no FP8"
)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", pytest.param("fp8", marks=FP8)])
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
