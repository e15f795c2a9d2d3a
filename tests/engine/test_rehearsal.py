"""The engine's life on a pretended GPU: what it launches, what the host waits for, what it allocates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from bench import gpu
from bench.random_blip import large_config, middle_config, pretended_blip
from bench.rehearsal import NotOnTheDevice, Rehearsal
from serve_app.args import AppArgs
from serve_app.engine.encoder import SIZES
from serve_app.engine.engine import Engine
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.kernels.triton_kernels import TritonKernels
from serve_app.engine.precision import Precision
from serve_app.errors import DeadlineExceeded, GenerationFailed, ModelUnsupported
from serve_app.types import EngineLimits, GenerationParameters
from tests.engine.engines import Bench, Request, random_pictures

CONFIG = Path(__file__).parents[2] / "configs" / "serve.yaml"
PICTURES = random_pictures(64, 4)
CACHE_BYTES = 8 * 700 * 2 * 4 * 256 * 2
"""Of 8 blocks of 700 nodes, in the middle model and two bytes."""
VARIANT = GenerationParameters(
    max_length=150, num_beams=8, do_sample=True, temperature=0.8, repetition_penalty=1.8, no_repeat_ngram_size=4
)
SCRATCH_BYTES = 600_000_000
"""What a step needs beside weights and caches: scores of 256 rows over 30,524 words, gathered keys and values."""
CONTEXT_BYTES = 600_000_000
"""CUDA's own for each process, and what the allocator can't use of what it has taken."""


def variant(number: int, tokens: int = 3) -> Request:
    return Request(PICTURES[number % 4], [1998, *[7] * (tokens - 1)], VARIANT, number)


@pytest.fixture
def device() -> Iterator[Rehearsal]:
    device = Rehearsal(torch.device("cuda", 0))
    with device.rehearsed():
        yield device


@pytest.fixture
def bench(device: Rehearsal) -> Bench:
    loaded = pretended_blip(middle_config(), "bfloat16", device.place)
    bench = Bench.__new__(Bench)
    bench._defaults = loaded.model.text_decoder.generation_config
    bench.engine = Engine(loaded, EngineLimits(max_rows=64, max_cache_bytes=CACHE_BYTES), device, TorchKernels())
    bench.results, bench.cancelled = {}, set()
    bench.engine.warm_up()
    return bench


def test_whole_life(device: Rehearsal, bench: Bench) -> None:
    """No engine could start on a GPU; a step waited 14 times for it, and warm-up was thrown away at the first one."""
    warm = len(device.captured)
    assert warm == bench.engine.graphs + len(SIZES), "the steps' graphs and the encoder's"
    for number in range(6):
        bench.submit(number, variant(number))
    for _ in range(6):
        bench.engine.step()
    assert bench.engine.counters.image_misses == 4
    assert bench.engine.counters.rows == 48
    waits, launches = device.waits, device.watch.launches.total()
    for _ in range(20):
        bench.engine.step()
    assert device.waits - waits == 20, "the host waits once a step, for the report of the step before"
    assert device.watch.launches.total() == launches, "a step is one graph and nothing else"
    bench.cancelled.add(0)
    bench.engine.step()
    assert isinstance(bench.results[0], DeadlineExceeded)
    device.says = 1
    for _ in range(3):
        bench.engine.step()
    assert len(bench.results) == 6
    assert bench.engine.idle
    assert len(device.captured) == warm


def test_fp8_halves_what_keys_and_values_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    found = {}
    for dtype in ("bfloat16", "fp8"):
        device = Rehearsal(torch.device("cuda", 0))
        with device.rehearsed():
            engine = Engine(
                pretended_blip(middle_config(), dtype, device.place), EngineLimits(), device, TritonKernels()
            )
            engine.warm_up()
            found[dtype] = sum(states.nbytes for states in engine.batch.tree.states), engine.images.image_bytes
        assert device.captured[-1].total() < 60, "conversions are part of the kernels"
    assert found["fp8"] == tuple(size // 2 for size in found["bfloat16"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(ModelUnsupported, match=r"8\.9"):
        Precision.of("fp8", torch.device("cuda", 0))


def test_a_tree_that_grows_beyond_its_graphs_captures_new_ones(device: Rehearsal, bench: Bench) -> None:
    before, nodes = len(device.captured), bench.engine.batch.tree.nodes
    bench.submit(0, variant(0, tokens=149))
    bench.engine.batch.tree.ensure(nodes + 1)
    for _ in range(3):
        bench.engine.step()
    assert nodes < bench.engine.batch.tree.nodes <= 700
    assert len(device.captured) > before


def test_memory_that_runs_out_ends_one_group(device: Rehearsal, bench: Bench) -> None:
    for number in range(3):
        bench.submit(number, variant(number))
    for _ in range(4):
        bench.engine.step()
    device.ahead = 0
    bench.engine.step()  # reads what is under way
    device.watch.limit = device.watch.bytes + 1_000_000
    bench.engine.batch.used[1].top = bench.engine.batch.tree.nodes
    bench.engine.step()
    bench.engine.step()
    assert isinstance(bench.results[1], GenerationFailed)
    assert len(bench.results) == 1
    assert len(bench.engine.batch.seats) == 2


@pytest.mark.parametrize("kind", ["value", "upload", "mask", "nonzero"])
def test_the_rehearsal_refuses_what_a_graph_can_not_hold(device: Rehearsal, kind: str) -> None:
    x = torch.zeros(8, device=device.place)
    mask = torch.zeros(8, dtype=torch.bool, device=device.place)
    host = torch.zeros(8)
    steps = {
        "value": lambda: float(x[0]),
        "upload": lambda: x.copy_(host),
        "mask": lambda: x[mask],
        "nonzero": lambda: x.nonzero(),
    }
    with pytest.raises((NotOnTheDevice, RuntimeError)):
        device.capture(steps[kind])


@pytest.mark.extended
def test_memory_on_paper() -> None:
    """BLIP-large at the settings of configs/serve.yaml, warm, with every image slot and the largest trees in use."""
    captions = next(each for each in yaml.safe_load(CONFIG.read_text())["applications"] if each["name"] == "captions")
    limits = AppArgs.model_validate(captions["args"]).engine_limits()
    device = Rehearsal(torch.device("cuda", 0))
    with device.rehearsed():
        loaded = pretended_blip(large_config(), "bfloat16", device.place)
        engine = Engine(loaded, limits, device, TorchKernels())
        del loaded
        weights = device.watch.bytes - engine.batch.tree.bytes - engine.images.slots * engine.images.image_bytes
        engine.warm_up()
        engine.batch.tree.ensure(engine.batch.tree.max_nodes)
    allowed = weights + limits.max_cache_bytes + limits.max_image_cache_bytes + SCRATCH_BYTES
    assert weights < 1.1e9
    assert device.watch.peak <= allowed
    tasks = (
        0.45e9 + 0.72e9 + 2 * limits.max_image_cache_bytes
    )  # BLIP-base for matching and questions, with their images
    assert 2 * (device.watch.peak + CONTEXT_BYTES) + tasks + 2 * CONTEXT_BYTES <= 24e9


def test_figures_of_the_rehearsal() -> None:
    report = gpu.rehearse(middle_config(), EngineLimits(max_rows=64), TorchKernels())
    assert report["host_waits_per_step"] <= 1
    assert report["captured_while_serving"] == 0
    assert report["launches_per_step"] < 450
    with_kernels = gpu.rehearse(middle_config(), EngineLimits(max_rows=64), TritonKernels())
    layers = 4 * (6 + 2 + 3 + 1)  # products, attentions, normalised sums, GELU
    assert with_kernels["launches_per_step"] <= layers + 20


@pytest.mark.extended
def test_the_checks_of_the_command_for_a_card_run_on_a_cpu() -> None:
    assert gpu.parity("cpu") == (gpu.DRAWS, gpu.DRAWS)
