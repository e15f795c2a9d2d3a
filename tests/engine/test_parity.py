"""The decode engine finds what transformers finds, alone and in any company."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from bench.random_blip import middle_config, random_blip
from serve_app.engine import Loaded, load
from serve_app.types import EngineLimits, GenerationParameters
from tests.engine.engines import Bench, Request, Result, random_pictures, random_request, transformers_result

pytestmark = pytest.mark.filterwarnings("ignore:Unfeasible length constraints")

DRAWS = 60

MODELS = {
    "embedded": lambda: (load("demo"), load("demo")),
    "random": lambda: (random_blip(middle_config()), random_blip(middle_config())),
}


@pytest.fixture(scope="module", params=MODELS)
def models(request: pytest.FixtureRequest) -> tuple[Loaded, Bench]:
    """The same model for transformers and, separately, in an engine."""
    reference, other = MODELS[request.param]()
    return reference, Bench(other)


@pytest.fixture(scope="module")
def requests(models: tuple[Loaded, Bench]) -> list[Request]:
    loaded, _ = models
    text = loaded.model.config.text_config
    rng = random.Random(3)
    pictures = random_pictures(loaded.info.image_height, 5)
    return [random_request(rng, pictures, text.bos_token_id, text.vocab_size) for _ in range(DRAWS)]


@pytest.fixture(scope="module")
def expected(models: tuple[Loaded, Bench], requests: list[Request]) -> list[list[tuple[list[int], float | None]]]:
    return [transformers_result(models[0], request) for request in requests]


def assert_same(result: Result, expected: Sequence[tuple[list[int], float | None]], request: Request) -> None:
    assert isinstance(result, list), result
    assert [found.ids for found in result] == [ids for ids, _ in expected], request
    for found, (_, score) in zip(result, expected, strict=True):
        assert found.score == (score if score is None else pytest.approx(score, rel=1e-3, abs=1e-4)), request


def test_alone(
    models: tuple[Loaded, Bench], requests: list[Request], expected: list[list[tuple[list[int], float | None]]]
) -> None:
    for request, wanted in zip(requests, expected, strict=True):
        assert_same(models[1].alone(request), wanted, request)


@pytest.mark.parametrize("seed", range(3))
def test_in_company(
    models: tuple[Loaded, Bench],
    requests: list[Request],
    expected: list[list[tuple[list[int], float | None]]],
    seed: int,
) -> None:
    """All requests in one batch, joining at random steps in random order."""
    _, bench = models
    bench.results.clear()
    rng = random.Random(seed)
    order = rng.sample(range(len(requests)), len(requests))
    for number in order:
        bench.submit(number, requests[number])
        for _ in range(rng.choice((0, 0, 0, 1, 3))):
            bench.engine.step()
            bench.engine.check_integrity()
    bench.run()
    for number, request in enumerate(requests):
        assert_same(bench.results[number], expected[number], request)


@pytest.mark.parametrize("top_k", [None, 0])
def test_more_beams_than_tokens_with_a_chance(models: tuple[Loaded, Bench], top_k: int | None) -> None:
    """30 beams draw 60 continuations; the first step leaves 50 and a cold model fewer: the rest has probability 0."""
    loaded, _ = models
    bench = Bench(copy.deepcopy(loaded), EngineLimits(max_beams=30))
    start = loaded.model.config.text_config.bos_token_id
    cold = GenerationParameters(max_length=12, num_beams=30, do_sample=True, temperature=0.05, top_k=top_k)
    request = Request(random_pictures(loaded.info.image_height, 1)[0], [start, 7, 8], cold, 5)
    assert_same(bench.alone(request), transformers_result(loaded, request), request)


def test_the_last_position_can_be_used(models: tuple[Loaded, Bench]) -> None:
    loaded, bench = models
    start = loaded.model.config.text_config.bos_token_id
    full = GenerationParameters(max_length=512, min_length=512, num_beams=2, do_sample=False)
    request = Request(random_pictures(loaded.info.image_height, 1)[0], [start] + [9] * 500, full, 0)
    assert_same(bench.alone(request), transformers_result(loaded, request), request)


def test_seeds_matter_and_neighbours_do_not(models: tuple[Loaded, Bench]) -> None:
    loaded, bench = models
    start = loaded.model.config.text_config.bos_token_id
    wild = GenerationParameters(max_length=30, num_beams=4, do_sample=True, temperature=20.0, top_k=0)
    one = Request(random_pictures(loaded.info.image_height, 1)[0], [start, 7], wild, 1)
    bench.results.clear()
    for number, seed in enumerate((1, 2, 1, 3)):
        bench.submit(number, replace(one, seed=seed))
    bench.run()
    results = [bench.results[number] for number in range(4)]
    found = [result[0].ids for result in results if isinstance(result, list)]
    assert found[0] == found[2]
    assert len({tuple(ids) for ids in found}) == 3
