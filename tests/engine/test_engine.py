"""The engine's managers stay sound whatever happens to its groups."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from hypothesis.strategies import integers

from bench.random_blip import middle_config, random_blip
from serve_app.deadline import Deadline
from serve_app.engine.memory import zeros
from serve_app.engine.state import RowState
from serve_app.engine.tree import Tree
from serve_app.errors import DeadlineExceeded, GenerationFailed, InvalidOption, WrongImageSize
from serve_app.types import EngineLimits, GenerationParameters, Pixels
from tests.engine.engines import Bench, Request, ids, random_pictures, random_request

IMAGE_BYTES = 2 * 4 * 17 * 256 * 4
"""Keys and values of four layers, 17 patches, width 256, float32: one encoded image of the middle model."""
PICTURES = random_pictures(64, 6)
SMALL = EngineLimits(max_rows=24, max_cache_bytes=25_000_000, max_image_cache_bytes=3 * IMAGE_BYTES)
START, VOCABULARY = 1998, 2000
NEEDS_VNNI = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="int8 needs a CPU with VNNI instructions")


@pytest.fixture(scope="module")
def module_bench() -> Bench:
    """An engine with room for three images and three blocks of rows, so that groups have to wait."""
    return Bench(random_blip(middle_config()), SMALL)


@pytest.fixture
def bench(module_bench: Bench) -> Iterator[Bench]:
    module_bench.close_all()
    yield module_bench
    module_bench.close_all()
    module_bench.engine.check_integrity()


def request(beams: int = 4, new: int = 20, picture: Pixels = PICTURES[0], **more: object) -> Request:
    parameters = GenerationParameters(max_length=2 + new, min_length=2 + new, num_beams=beams, do_sample=False, **more)  # type: ignore[arg-type]
    return Request(picture, [START, 7], parameters, 0)


def test_random_comings_and_goings(bench: Bench) -> None:
    """Groups are submitted, cancelled and finished in random order: nothing leaks, and what survives is unchanged."""
    rng = random.Random(11)
    pool = [random_request(rng, PICTURES, START, VOCABULARY) for _ in range(12)]
    alone = [ids(bench.alone(one)) for one in pool]

    class Life(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            bench.close_all()
            self.running: dict[int, int] = {}
            self.number = 0

        @rule(which=integers(0, len(pool) - 1))
        def submit(self, which: int) -> None:
            self.number += 1
            self.running[self.number] = which
            bench.submit(self.number, pool[which])

        @rule(count=integers(1, 12))
        def steps(self, count: int) -> None:
            for _ in range(count):
                bench.engine.step()

        @precondition(lambda self: self.running)
        @rule(place=integers(0, 1000))
        def cancel(self, place: int) -> None:
            number = list(self.running)[place % len(self.running)]
            if number not in bench.results:
                bench.cancelled.add(number)
            del self.running[number]

        @invariant()
        def sound(self) -> None:
            bench.engine.check_integrity()

        def teardown(self) -> None:
            bench.run()
            assert bench.engine.counters.rows == bench.engine.counters.waiting == 0
            for number, which in self.running.items():
                assert ids(bench.results[number]) == alone[which]

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Life,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_image_is_encoded_once_for_all_that_use_it(bench: Bench) -> None:
    before = bench.engine.counters.image_misses
    for number in range(4):
        bench.submit(number, request())
    bench.run()
    bench.submit(5, request(beams=3))
    bench.run()
    assert bench.engine.counters.image_misses - before <= 1


def test_images_beyond_the_bound_push_out_the_longest_unused(bench: Bench) -> None:
    def misses(picture: Pixels) -> int:
        before = bench.engine.counters.image_misses
        bench.alone(request(new=2, picture=picture))
        return bench.engine.counters.image_misses - before

    for picture in PICTURES[:3]:
        misses(picture)
    assert misses(PICTURES[0]) == 0
    assert misses(PICTURES[3]) == 1
    assert misses(PICTURES[0]) == 0
    assert misses(PICTURES[1]) == 1
    assert bench.engine.counters.image_bytes == 3 * IMAGE_BYTES


def test_images_in_use_are_never_pushed_out(bench: Bench) -> None:
    """Six images, room for three: the others wait, and all get their own answer."""
    alone = [ids(bench.alone(request(beams=3, picture=picture))) for picture in PICTURES]
    for number, picture in enumerate(PICTURES):
        bench.submit(number, request(beams=3, picture=picture))
    bench.run()
    assert [ids(bench.results[number]) for number in range(6)] == alone


def test_first_come_first_served(bench: Bench) -> None:
    """A wide group waits for its rows, and small ones that came later don't overtake it for ever."""
    wide = GenerationParameters(max_length=7, min_length=7, num_beams=1, do_sample=True, num_return_sequences=24)
    bench.submit(0, request(new=10))
    bench.submit(1, Request(PICTURES[0], [START, 7], wide, 0))
    for number in range(2, 12):
        bench.submit(number, request(beams=2, new=3))
    bench.run()
    assert list(bench.results)[:2] == [0, 1]


def test_rounds_keep_the_place_of_their_request(bench: Bench) -> None:
    """A request's later step queued behind everybody who had come meanwhile; it has the deadline of its first one."""
    now = time.monotonic()
    for number in range(5):
        bench.submit(number, request(new=10), deadline=Deadline(now + 100 + number))
    bench.submit(9, request(new=10), deadline=Deadline(now + 99))
    bench.run()
    assert list(bench.results).index(9) < 3


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (request(beams=9), "beams"),
        (
            Request(
                PICTURES[0], [START], GenerationParameters(max_length=9, do_sample=True, num_return_sequences=25), 0
            ),
            "rows",
        ),
        (request(beams=0), "num_beams"),
        (request(beams=2, num_return_sequences=3), "num_return_sequences"),
        (request(beams=2, temperature=0.0, top_k=-1), "top_k"),
        (request(beams=2, length_penalty=1e9), "length_penalty"),
        (request(beams=2, repetition_penalty=0.0), "repetition_penalty"),
    ],
)
def test_what_can_never_run_is_refused_in_a_sentence(bench: Bench, wrong: Request, word: str) -> None:
    with pytest.raises(InvalidOption, match=word):
        bench.submit(0, wrong)
    assert bench.engine.idle


def test_image_of_another_size_is_refused(bench: Bench) -> None:
    with pytest.raises(WrongImageSize):
        bench.submit(0, request(picture=random_pictures(32, 1)[0]))


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_deadline_frees_everything(bench: Bench, steps: int) -> None:
    bench.submit(0, request(), deadline=Deadline.after(0.02 if steps else -1))
    for _ in range(steps):
        bench.engine.step()
    time.sleep(0.03)
    bench.engine.step()
    assert isinstance(bench.results[0], DeadlineExceeded)
    assert bench.engine.idle
    bench.engine.check_integrity()


def test_finished_groups_return_before_their_neighbours(bench: Bench) -> None:
    bench.submit(0, request(new=30))
    bench.submit(1, request(new=3))
    while 1 not in bench.results:
        bench.engine.step()
    assert 0 not in bench.results
    bench.run()


def break_forward(error: Exception, at: int) -> Callable[..., torch.Tensor]:
    calls = iter(range(10**6))

    def forward(*arguments: object, _inner: Callable[..., torch.Tensor]) -> torch.Tensor:
        if next(calls) == at:
            raise error
        return _inner(*arguments)

    return forward


@pytest.mark.parametrize("at", [0, 1, 5], ids=["prompt", "first token", "later"])
@pytest.mark.parametrize("error", [ValueError("broken"), torch.OutOfMemoryError("full")], ids=["error", "memory"])
def test_engine_goes_on_after_an_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception, at: int
) -> None:
    alone = ids(bench.alone(request()))
    decoder = bench.engine.decoder
    inner, broken = decoder.forward, break_forward(error, at)
    monkeypatch.setattr(decoder, "forward", lambda *arguments: broken(*arguments, _inner=inner))
    for number in range(4):
        bench.submit(number, request())
    bench.run()
    failed = [result for result in bench.results.values() if isinstance(result, GenerationFailed)]
    # One out of memory in a step costs one group only: the others have its room. Three run, the fourth waits.
    assert len(failed) == (1 if isinstance(error, torch.OutOfMemoryError) else 3)
    survived = [result for result in bench.results.values() if result not in failed]
    assert all(ids(result) == alone for result in survived)
    bench.results.clear()
    bench.submit(9, request())
    bench.run()
    assert ids(bench.results[9]) == alone


@pytest.mark.parametrize("at_once", [1, 2])
def test_error_while_encoding_concerns_that_image_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    alone = ids(bench.alone(request()))
    encoder = bench.engine.encoder

    class Broken:
        normalize = encoder.normalize

        def __init__(self) -> None:
            self.at_once = at_once

        def __call__(self, pictures: Sequence[Pixels], slots: Sequence[int]) -> None:
            if PICTURES[1] in pictures:
                raise torch.OutOfMemoryError("full")
            encoder(pictures, slots)

    monkeypatch.setattr(bench.engine, "encoder", Broken())
    bench.engine.images.clear()
    bench.submit(0, request())
    bench.submit(1, request(picture=PICTURES[1]))
    bench.run()
    assert ids(bench.results[0]) == alone
    assert isinstance(bench.results[1], GenerationFailed)


def test_memory_of_a_tree_follows_what_its_beams_share(bench: Bench) -> None:
    """Eight beams that go the same way for 300 tokens keep few more than 300 nodes, not eight times as many."""
    together = GenerationParameters(max_length=300, min_length=300, num_beams=8, do_sample=True, top_k=50)
    most = 0
    bench.submit(0, Request(PICTURES[0], [START, 7], together, 3))
    while not bench.engine.idle:
        bench.engine.step()
        most = max([most, *(block.top for block in bench.engine.batch.used)])
    assert most < 700
    bench.engine.check_integrity()


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8", pytest.param("int8", marks=NEEDS_VNNI)])
def test_other_precisions_run_in_company(dtype: str) -> None:
    """Several images in one batch used to fail in every format but float32."""
    bench = Bench(random_blip(middle_config(), dtype), SMALL)
    rng = random.Random(2)
    for number in range(15):
        bench.submit(number, random_request(rng, PICTURES, START, VOCABULARY))
        bench.engine.step()
    bench.run()
    assert all(ids(result) for result in bench.results.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "fp8", pytest.param("int8", marks=NEEDS_VNNI)])
def test_other_precisions_stay_close(dtype: str) -> None:
    """The first token's scores agree with float32's to the precision of the format."""
    logits = []
    for name in ("float32", dtype):
        bench = Bench(random_blip(middle_config(), name))
        bench.submit(0, request(beams=4))
        bench.engine._drop_ended()
        with torch.inference_mode():
            bench.engine._admit()
            states = bench.engine.decoder.logits

            def kept(x: torch.Tensor, inner: Callable[[torch.Tensor], torch.Tensor] = states) -> torch.Tensor:
                logits.append(inner(x)[0])
                return inner(x)

            bench.engine.decoder.logits = kept  # type: ignore[method-assign]
            bench.engine._launch()
    exact, rounded = logits
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.999


@pytest.mark.parametrize("at", [0, 2, 3], ids=["first layer", "in the midst", "last layer"])
def test_memory_that_runs_out_while_a_tree_grows_ends_the_group_that_grew(
    monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """One group after the other was ended, the newest first, until the one that grew was the last."""
    bench = Bench(random_blip(middle_config()), SMALL)
    wild = GenerationParameters(max_length=300, min_length=300, num_beams=8, do_sample=True, temperature=9.0, top_k=0)
    alone = ids(bench.alone(request(new=30)))
    allocate, calls = Tree._zeros, iter(range(10**6))

    def scarce(tree: Tree, nodes: int) -> torch.Tensor:
        if next(calls) == at:
            raise torch.OutOfMemoryError("full")
        return allocate(tree, nodes)

    bench.submit(0, Request(PICTURES[0], [START, *[7] * 100], wild, 3))
    for _ in range(14):  # its prompt
        bench.engine.step()
    monkeypatch.setattr(Tree, "_zeros", scarce)
    bench.submit(1, request(new=30))
    bench.submit(2, request(new=30))
    bench.run()
    assert isinstance(bench.results[0], GenerationFailed)
    assert ids(bench.results[1]) == ids(bench.results[2]) == alone


def test_tree_beyond_the_cache_ends_its_group_in_a_sentence() -> None:
    blocks, nodes = 3, 200
    limits = replace(SMALL, max_cache_bytes=blocks * nodes * 2 * 4 * 256 * 4)
    bench = Bench(random_blip(middle_config()), limits)
    wild = GenerationParameters(max_length=300, min_length=300, num_beams=8, do_sample=True, temperature=99.0, top_k=0)
    alone = ids(bench.alone(request()))
    bench.submit(0, Request(PICTURES[0], [START, *[7] * 150], wild, 3))
    bench.submit(1, request())
    bench.run()
    assert ids(bench.results[1]) == alone
    assert isinstance(bench.results[0], GenerationFailed)
    assert "max_cache_bytes" in bench.results[0].message
    assert bench.engine.batch.tree.nodes <= nodes


def test_search_without_a_finished_beam_returns_the_prompt(bench: Bench) -> None:
    hopeless = GenerationParameters(max_length=30, min_length=30, num_beams=2, do_sample=False, length_penalty=-20.0)
    (found,) = ids(bench.alone(Request(PICTURES[0], [START, 7], hopeless, 0)))
    assert found[:2] == [START, 7]


def test_cache_takes_memory_only_where_something_is_written() -> None:
    before = psutil.Process().memory_info().rss
    kept = zeros((1000, 1000, 1000), torch.bfloat16, torch.device("cpu"))
    assert psutil.Process().memory_info().rss - before < 50_000_000
    assert kept[999, 0, 0] == 0
    assert kept.data_ptr() % 64 == 0


def test_device_that_is_lost_ends_the_engine(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access nothing works in this process any more: a replica must be replaced, not look healthy."""
    engine = Bench(random_blip(middle_config()), SMALL).engine
    lost = Bench.__new__(Bench)
    lost.engine, lost.results, lost.cancelled, lost._defaults = engine, {}, set(), bench._defaults

    def broken(*_: object) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine.decoder, "forward", broken)
    monkeypatch.setattr(engine.batch.state, "clear", broken)
    lost.submit(0, request())
    lost.submit(1, request(beams=3))
    with pytest.raises(torch.AcceleratorError):
        lost.run()
    assert all(isinstance(lost.results[number], GenerationFailed) for number in (0, 1))


def test_rows_that_no_block_has_are_refused() -> None:
    """Twenty rows make two blocks of eight: a group of twenty waited for ever, and everybody behind it."""
    bench = Bench(random_blip(middle_config()), replace(SMALL, max_rows=20))
    many = GenerationParameters(max_length=7, num_beams=1, do_sample=True, num_return_sequences=20)
    with pytest.raises(InvalidOption, match="16"):
        bench.submit(0, Request(PICTURES[0], [START], many, 0))
    bench.submit(1, request(new=3))
    bench.run()
    assert ids(bench.results[1])


def test_beams_that_never_finished_are_no_answers(bench: Bench) -> None:
    """With more sequences wanted than finished, the bare prompt was one of the answers."""
    hopeless = GenerationParameters(
        max_length=30, min_length=30, num_beams=4, do_sample=False, num_return_sequences=4, length_penalty=-20.0
    )
    found = bench.alone(Request(PICTURES[0], [START, 7], hopeless, 0))
    assert isinstance(found, list)
    assert all(each.ids != [START, 7] for each in found[1:])


def test_a_group_that_cannot_be_seated_ends_and_the_engine_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that ran out while its parameters were written ended the engine's thread."""
    bench = Bench(random_blip(middle_config()), SMALL)
    alone = ids(bench.alone(request()))
    write, calls = RowState.write, iter(range(100))

    def scarce(state: RowState, *arguments: Any) -> None:
        if next(calls) == 0:
            raise torch.OutOfMemoryError("full")
        write(state, *arguments)

    monkeypatch.setattr(RowState, "write", scarce)
    bench.submit(0, request())
    bench.run()
    assert isinstance(bench.results[0], GenerationFailed)
    bench.submit(1, request())
    bench.run()
    assert ids(bench.results[1]) == alone
    bench.engine.check_integrity()


def test_a_device_that_is_lost_while_an_image_is_encoded_is_told_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Freeing what the group held failed as well, before the group was told: its caller waited for ever."""
    bench = Bench(random_blip(middle_config()), SMALL)

    def lost(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(bench.engine.encoder, "_encode", lost)
    monkeypatch.setattr(RowState, "clear", lost)
    bench.submit(0, request())
    with pytest.raises(torch.AcceleratorError):
        bench.run()
    assert isinstance(bench.results[0], GenerationFailed)


def test_a_device_that_is_lost_while_a_group_leaves_is_told_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(random_blip(middle_config()), SMALL)
    bench.submit(0, request())
    bench.engine.step()

    def lost(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(RowState, "clear", lost)
    bench.cancelled.add(0)
    with pytest.raises(torch.AcceleratorError):
        bench.engine.step()
    assert isinstance(bench.results[0], DeadlineExceeded)
