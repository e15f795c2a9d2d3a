"""Triton's kernels under its interpreter, against the torch code that they replace."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis.strategies import integers, sampled_from

pytest.importorskip("triton")

from bench.random_blip import middle_config, random_blip
from serve_app.engine.engine import Engine
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.kernels import Kernels, Looks, choosing
from serve_app.engine.kernels.check import check
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.kernels.triton_kernels import TritonKernels
from serve_app.engine.linear import Plain
from serve_app.engine.memory import rounded
from serve_app.engine.tree import Tree
from serve_app.types import EngineLimits, GenerationParameters
from tests.engine.engines import Bench, Request, ids, random_pictures, random_request
from tests.engine.test_stepper import Padded

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float16)  # the interpreter multiplies no bfloat16
CLOSE = {torch.float32: 1e-5, torch.float16: 2e-2}


def drawn(seed: int, blocks: int, rows: int, heads: int, size: int, extent: int, pictures: int, dtype: Any) -> Looks:
    """A step in the midst of a life: every row sees some nodes and its own, and images lie in random slots."""
    random = torch.Generator().manual_seed(seed)
    tree = Tree(1, heads, size, blocks + 1, rows, dtype, CPU, 10**9)
    cache = ImageCache(1, (heads, 21, size), 4 * 2 * heads * 64 * size * dtype.itemsize, dtype, CPU)
    for tensor in (*tree.states, *cache.states):
        tensor.copy_(torch.randn(tensor.shape, generator=random))
    tree.ensure(extent)
    tree.seen[:blocks, :, : extent - rows] = torch.rand(blocks, rows, extent - rows, generator=random) < 0.4
    nodes = tree.free(blocks, extent)
    own = torch.rand(blocks, rows, rows, generator=random) < 0.3
    own |= torch.eye(rows, dtype=torch.bool)
    seen = tree.seen[:blocks, :, :extent].scatter(2, nodes[:, None].expand_as(own), own)
    slots = torch.randint(cache.slots, (blocks, rows if pictures > 1 else 1), generator=random).expand(blocks, rows)
    return Looks(tree, cache, nodes, own, extent, seen, slots, pictures, None)


@settings(max_examples=25, deadline=None)
@given(
    integers(0, 10**6), integers(1, 3), sampled_from((8, 16, 24)), integers(1, 3), sampled_from((16, 40, 64)),
    integers(30, 150), sampled_from((False, True)), sampled_from(DTYPES), sampled_from((False, True)),
)  # fmt: skip
def test_attention_is_that_of_torch(
    seed: int, blocks: int, rows: int, heads: int, size: int, extent: int, several: bool, dtype: torch.dtype, fp8: bool
) -> None:
    found = []
    for kind in (TorchKernels(), TritonKernels()):
        kept = torch.float8_e4m3fn if fp8 else dtype
        looks = drawn(seed, blocks, rows, heads, size, extent, rows if several else 1, kept)
        generator = torch.Generator().manual_seed(seed)
        qkv = torch.randn(blocks * rows, 3 * heads * size, generator=generator).div(size**0.5).to(dtype)
        qkv[0, -1] = 1000  # more than FP8 has
        # The interpreter does not round to FP8 as a GPU does, so here are only numbers that need no rounding.
        qkv = rounded(qkv, kept).to(dtype) if fp8 else qkv
        sight = kind.sight(looks, dtype)
        past = sight.attend_past(0, qkv).clone()
        image = sight.attend_image(0, qkv[:, : heads * size].contiguous()).clone()
        found.append((past, image, looks.tree.states[0].to(dtype)))
    for torchs, tritons in zip(*found, strict=True):
        torch.testing.assert_close(tritons, torchs, atol=CLOSE[dtype], rtol=CLOSE[dtype])


@settings(max_examples=25, deadline=None)
@given(
    integers(0, 10**6), integers(1, 5), integers(2, 300), sampled_from((torch.float32, torch.float16, torch.bfloat16))
)
def test_a_sum_is_normalised_as_by_torch(seed: int, rows: int, width: int, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(rows, width, generator=random).to(dtype) for _ in range(2))
    norm = torch.nn.LayerNorm(width, eps=1e-12).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(width, generator=random))
        wanted = TorchKernels().add_norm(x.clone(), residual, norm)
        found = TritonKernels().add_norm(x, residual, norm)
    torch.testing.assert_close(found, wanted, atol=0.04 if dtype != torch.float32 else 1e-5, rtol=0.01)


@settings(max_examples=25, deadline=None)
@given(integers(0, 10**6), integers(1, 70), integers(2, 150), integers(1, 90), sampled_from((False, True)))
def test_a_linear_layer_of_a_normalised_sum_is_that_of_torch(
    seed: int, rows: int, width: int, columns: int, gelu: bool
) -> None:
    random = torch.Generator().manual_seed(seed)
    x, residual, weight, bias = (
        torch.randn(*shape, generator=random).half()
        for shape in ((rows, width), (rows, width), (columns, width), (columns,))
    )
    norm = torch.nn.LayerNorm(width, eps=1e-12).half()
    linear = Plain(weight / width**0.5, bias, gelu)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(width, generator=random))
        wanted = TorchKernels().norm_linear(x.clone(), residual, norm, linear)
        found = TritonKernels().norm_linear(x, residual, norm, linear)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.01)


class OnlySteps(TorchKernels):
    """Torch's attention, and everything else by Triton."""

    def steps(self, batch: Any, end: int) -> Any:
        return TritonKernels().steps(batch, end)

    def sight(self, looks: Looks, dtype: torch.dtype) -> Any:
        past = looks.tree.seen[: len(looks.nodes), :, : looks.extent]
        seen = past.scatter(2, looks.nodes[:, None].expand_as(looks.own), looks.own)
        return super().sight(replace(looks, seen=seen), dtype)


def bench_with(kernels: Kernels, max_rows: int) -> Bench:
    """An engine that takes the steps of a GPU and draws as one: from a counter."""
    bench = Bench(random_blip(middle_config()))
    bench.engine = Engine(random_blip(middle_config()), EngineLimits(max_rows=max_rows), Padded(), kernels)
    bench.engine._stepper._streams = None
    return bench


@pytest.mark.parametrize("seed", range(3))
def test_steps_are_those_of_torch(seed: int) -> None:
    """Random requests come and go: processors, sampling, beams, prompts and trees, all in four launches."""
    rng, pictures = random.Random(seed), random_pictures(64, 3)
    requests = [random_request(rng, pictures, 1998, 2000) for _ in range(10)]
    joins = [rng.choice((0, 1, 2, 4)) for _ in requests]
    found = []
    for kernels_ in (TorchKernels(), OnlySteps()):
        bench = bench_with(kernels_, 40)
        for number, (request, steps) in enumerate(zip(requests, joins, strict=True)):
            bench.submit(number, request)
            for _ in range(steps):
                bench.engine.step()
        bench.run()
        found.append([ids(bench.results[number]) for number in range(len(requests))])
    assert found[0] == found[1]


@pytest.mark.extended
def test_the_engine_finds_the_same_with_them() -> None:
    """Groups with beams and without, of several images in one block, their prompts fed in steps."""
    rng, pictures = random.Random(2), random_pictures(64, 3)
    kinds = (
        GenerationParameters(max_length=9, num_beams=3, do_sample=True, no_repeat_ngram_size=2),
        GenerationParameters(max_length=8, num_beams=1, do_sample=False),
        GenerationParameters(max_length=12, num_beams=1, do_sample=True, num_return_sequences=2),
    )
    requests = [
        Request(pictures[n], [1998, *(rng.randrange(6, 100) for _ in range(3 * n))], parameters, n)
        for n, parameters in enumerate(kinds)
    ]
    found = []
    for kernels_ in (TorchKernels(), TritonKernels()):
        bench = bench_with(kernels_, 16)
        for number, request in enumerate(requests):
            bench.submit(number, request)
        bench.run()
        found.append([ids(bench.results[number]) for number in range(len(requests))])
    assert found[0] == found[1]


@pytest.mark.extended
def test_kernels_are_checked_at_start_and_replaced_when_they_are_wrong(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check(CPU, 2, 64, torch.float16, torch.float16)
    from serve_app.engine.kernels import check as checking

    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(checking, "check", lambda _, *sizes: check(CPU, *sizes))
    assert isinstance(choosing.kernels_of(torch.device("cuda:0"), 3, 40, torch.float32, torch.float32), TritonKernels)
    inner = checking.add_norm
    monkeypatch.setattr(checking, "add_norm", lambda *arguments: inner(*arguments) + 1)
    assert isinstance(choosing.kernels_of(torch.device("cuda:0"), 3, 40, torch.float32, torch.float32), TorchKernels)
    assert "off by 1" in caplog.text


@pytest.mark.extended
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """The interpreter lets a loop give a variable another shape, the compiler does not: no kernel would have run."""
    script = Path(__file__).with_name("compile_kernels.py")
    env = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "13"
