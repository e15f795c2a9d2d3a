"""The padded steps that become CUDA graphs, run without one."""

from __future__ import annotations

import random

import pytest
import torch

from bench.random_blip import middle_config, random_blip
from serve_app.engine.device import Cpu, Reading
from serve_app.engine.engine import Engine
from serve_app.engine.processors import power_of_two
from serve_app.types import EngineLimits, GenerationParameters
from tests.engine.engines import Bench, Request, ids, random_pictures, random_request

PICTURES = random_pictures(64, 4)


class Padded(Cpu):
    """A CPU that takes the steps of a GPU: padded shapes, gathered images, a report that is read a step late."""

    captures = True
    ahead = 1

    def read(self, tensor: torch.Tensor) -> Reading:
        return super().read(tensor.clone())


def padded_bench(limits: EngineLimits | None = None) -> Bench:
    bench = Bench(random_blip(middle_config()), limits)
    bench.engine = Engine(random_blip(middle_config()), limits or EngineLimits(), Padded())
    bench.engine.warm_up()
    return bench


def test_sizes_are_padded_to_powers_of_two() -> None:
    assert [power_of_two(size) for size in (1, 2, 3, 5, 8, 9)] == [1, 2, 4, 8, 8, 16]
    assert power_of_two(3, 128) == 128


@pytest.mark.parametrize("seed", range(2))
def test_padded_steps_find_the_same(seed: int) -> None:
    """Padding rows and nodes change nothing, nor does a report that comes late, while groups come and go."""
    plain, padded = Bench(random_blip(middle_config())), padded_bench()
    rng = random.Random(seed)
    requests = [random_request(rng, PICTURES, 1998, 2000) for _ in range(25)]
    for number, request in enumerate(requests):
        padded.submit(number, request)
        for _ in range(rng.choice((0, 0, 2, 5))):
            padded.engine.step()
    padded.run()
    for number, request in enumerate(requests):
        assert ids(padded.results[number]) == ids(plain.alone(request)), request


def test_warm_up_stays_within_the_cache_and_serves_the_presets_without_a_capture() -> None:
    """Warm-up took twice what max_cache_bytes allowed, and was thrown away at the first step."""
    limits = EngineLimits(max_rows=32, max_cache_bytes=4 * 300 * 2 * 4 * 256 * 4)
    bench = padded_bench(limits)
    assert bench.engine.batch.tree.nodes <= 300
    states = sum(tensor.nbytes for tensor in bench.engine.batch.tree.states)
    assert states <= limits.max_cache_bytes
    captured = bench.engine.graphs
    assert captured
    variant = GenerationParameters(max_length=20, num_beams=8, do_sample=True, no_repeat_ngram_size=4, top_k=50)
    for number in range(4):
        bench.submit(number, Request(PICTURES[number % 4], [1998, 7, 8], variant, number))
    bench.run()
    assert bench.engine.graphs == captured


def test_what_is_drawn_from_a_counter_does_not_depend_on_the_row() -> None:
    """Groups without beams share blocks, and drew other numbers in another row: the text depended on the company."""
    sampled = Request(PICTURES[0], [1998, 7, 8], GenerationParameters(max_length=20, do_sample=True, num_beams=1), 5)
    found = []
    for company in range(4):
        bench = padded_bench()
        bench.engine._stepper._streams = None
        for number in range(company):
            bench.submit(number, Request(PICTURES[1], [1998, 9], sampled.parameters, number))
        bench.submit("it", sampled)
        bench.run()
        found.append(ids(bench.results["it"]))
    assert all(each == found[0] for each in found)


def test_images_that_come_together_are_encoded_together() -> None:
    plain, padded = Bench(random_blip(middle_config())), padded_bench()
    passes: list[int] = []
    encode = padded.engine.encoder._encode
    padded.engine.encoder._encode = lambda pictures, slots: passes.append(len(pictures)) or encode(pictures, slots)  # type: ignore[func-returns-value,method-assign]
    greedy = GenerationParameters(max_length=20, num_beams=1, do_sample=False)
    requests = [Request(picture, [1998, 7], greedy, 0) for picture in PICTURES[:3]]
    for number, request in enumerate(requests):
        padded.submit(number, request)
    padded.run()
    assert passes == [2, 1]
    for number, request in enumerate(requests):
        assert ids(padded.results[number]) == ids(plain.alone(request))
