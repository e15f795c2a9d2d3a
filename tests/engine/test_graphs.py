"""The padded steps that become CUDA graphs, run without one."""

from __future__ import annotations

import random

import pytest

from bench.random_blip import middle_config, random_blip
from serve_app.engine.graphs import StepGraphs, bucket
from tests.engine.engines import Bench, ids, random_pictures, random_request


def test_buckets_are_powers_of_two() -> None:
    assert [bucket(size) for size in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]
    assert bucket(3, 128) == 128


@pytest.mark.parametrize("seed", range(2))
def test_padded_steps_find_the_same(seed: int) -> None:
    """Padding groups and nodes change nothing, while groups come and go and caches grow."""
    plain, padded = (Bench(random_blip(middle_config())) for _ in range(2))
    engine = padded.engine
    engine._graphs = StepGraphs(engine._decoder, engine.images, capture=False)
    engine.warm_up((1, 4))
    rng = random.Random(seed)
    pictures = random_pictures(64, 4)
    requests = [random_request(rng, pictures, 1998, 2000) for _ in range(25)]
    for number, request in enumerate(requests):
        padded.submit(number, request)
        for _ in range(rng.choice((0, 0, 2, 5))):
            engine.step()
            engine.check_integrity()
    padded.run()
    for number, request in enumerate(requests):
        assert ids(padded.results[number]) == ids(plain.alone(request)), request
