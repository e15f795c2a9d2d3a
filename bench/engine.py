"""How fast one image, and several, get their captions: `python -m bench.engine`.

The work is detail high of the `classic` strategy on BLIP-large with random weights, where every beam
runs to its full length: four variants, then two rounds.

a   transformers' generate, one job after the other
b   transformers' generate, the four variants as one batch
c   the decode engine, one image
d   the decode engine, several images at once

All in one process, one after the other; ratios are against (a) in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from transformers import BlipConfig

from bench.random_blip import large_config, middle_config, random_blip
from bench.roofline import Roofline
from serve_app.engine.engine import Engine
from serve_app.engine.loading import Loaded
from serve_app.engine.parameters import given, resolve
from serve_app.engine.pixels import Normalizer
from serve_app.engine.scheduler import Group
from serve_app.errors import CaptionServeError
from serve_app.pipeline import Presets
from serve_app.types import EngineLimits, GenerationParameters, Pixels

VARIANT_PROMPTS = ([5, 6, 7], [5, 8, 6, 7], [5, 9, 6, 7], [5, 10, 11, 6, 7])
ROUND_PROMPT = list(range(12, 52))
"""Token ids behind the start token, as many as the presets' prompts have."""
Ids = list[list[int]]
PHASES = ("encode", "forward", "search")


class Work:
    """The jobs of one image, with a share of the presets' lengths."""

    def __init__(self, start: int, share: float) -> None:
        """`start`: id of the decoder's start token."""
        presets = Presets()
        self._start = start
        self.variants = [_job([start, *ids], presets.variant, share) for ids in VARIANT_PROMPTS]
        self.rounds = [_job([start, *ROUND_PROMPT], presets.round, share)] * 2

    def tiny(self) -> Work:
        """The same with a few tokens each, to warm up."""
        return Work(self._start, 0.02)

    @property
    def row_steps(self) -> int:
        """Rows times steps of one image."""
        return sum((p.num_beams or 1) * _new(ids, p) for ids, p in (*self.variants, *self.rounds))

    @property
    def steps(self) -> int:
        """Steps of one image one after the other: the variants share theirs."""
        return max(_new(*job) for job in self.variants) + sum(_new(*job) for job in self.rounds)

    @property
    def node_steps(self) -> int:
        """Tokens of one beam of each job, summed over its steps."""
        return sum(sum(range(len(ids), p.max_length or 0)) for ids, p in (*self.variants, *self.rounds))


def _new(ids: list[int], parameters: GenerationParameters) -> int:
    """Tokens to generate."""
    return (parameters.max_length or 0) - len(ids)


def _job(ids: list[int], parameters: GenerationParameters, share: float) -> tuple[list[int], GenerationParameters]:
    new = max(2, round(_new(ids, parameters) * share))
    return ids, replace(parameters, max_length=len(ids) + new)


def images(count: int, size: int) -> list[Pixels]:
    made = []
    for seed in range(count):
        data = torch.randint(0, 256, (size * size * 3,), generator=torch.Generator().manual_seed(seed)).byte()
        raw = bytes(data.tolist())
        made.append(Pixels(hashlib.sha256(raw).hexdigest(), size, size, raw))
    return made


@torch.inference_mode()
def reference(loaded: Loaded, work: Work, picture: Pixels, batched: bool) -> Ids:
    """(a), or (b) when `batched`: the ids of the first sequence of each job."""
    pixel_values = Normalizer(loaded.mean, loaded.std, loaded.info)(picture).to(loaded.model.dtype)

    def generate(prompts: Ids, parameters: GenerationParameters, seed: int) -> Ids:
        width = max(map(len, prompts))
        # Left padding; the last token is the one that BLIP's generate drops.
        ids = torch.tensor([[0] * (width - len(p)) + p + [0] for p in prompts], device=loaded.model.device)
        mask = None if len(prompts) == 1 else (ids != 0).long().index_fill_(1, ids.new_tensor([width]), 1)
        torch.manual_seed(seed)
        images = pixel_values.expand(len(prompts), -1, -1, -1)
        found = loaded.model.generate(pixel_values=images, input_ids=ids, attention_mask=mask, **given(parameters))
        return [list(row) for row in found.tolist()]

    results: Ids = []
    if batched:
        results += generate([ids for ids, _ in work.variants], work.variants[-1][1], 0)
        jobs = work.rounds
    else:
        jobs = [*work.variants, *work.rounds]
    for ids, parameters in jobs:
        results += generate([ids], parameters, len(results))
    return results


class EngineRun:
    """(c) and (d): images through one engine, each with its rounds after its variants."""

    def __init__(self, loaded: Loaded, count: int) -> None:
        self.loaded = loaded
        self._defaults = loaded.model.text_decoder.generation_config
        self.engine = Engine(loaded, EngineLimits(max_rows=32 * count))
        self.engine.warm_up()

    def __call__(self, work: Work, pictures: list[Pixels]) -> Ids:
        """The ids of all jobs of the first image, after all images are done."""
        self.engine.images.clear()
        results: list[dict[int, list[int]]] = [{} for _ in pictures]

        def submit(image: int, job: int) -> None:
            ids, parameters = [*work.variants, *work.rounds][job]

            def finish(found: object) -> None:
                assert not isinstance(found, CaptionServeError), found
                results[image][job] = found[0].ids  # type: ignore[index]
                done = len(results[image])
                if len(work.variants) <= done < len(work.variants) + len(work.rounds):
                    submit(image, done)

            checked = resolve(parameters, self._defaults, parameters.max_length or 0, len(ids))
            self.engine.submit(Group(pictures[image], ids, checked, job, finish))

        for image in range(len(pictures)):
            for job in range(len(work.variants)):
                submit(image, job)
        while not self.engine.idle:
            self.engine.step()
        return [results[0][job] for job in sorted(results[0])]


def timed(run: Callable[[], Ids], device: str, repeats: int) -> tuple[float, Ids]:
    """Median seconds and the last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


class Report:
    """What was measured, for the last line; prints as it goes."""

    def __init__(self) -> None:
        self.base: float | None = None
        self.expected: Ids = []
        self.seconds: dict[str, dict[str, float]] = {}
        """Of an image, by the part's letter and the precision."""
        self.single: dict[str, float | None] = {}
        self.throughput: dict[str, float | None] = {}
        self.share: dict[str, float] = {}

    def line(self, name: str, precision: str, seconds: float, more: str = "") -> float | None:
        """Prints seconds an image and returns the ratio to (a), None without (a)."""
        self.seconds.setdefault(name, {})[precision] = round(seconds, 2)
        ratio = None if self.base is None else round(self.base / seconds, 2)
        said = "" if ratio is None else f", {ratio:5.2f}× a"
        print(f"{name}  {precision:9} {seconds:8.2f} s an image{said}{more}", flush=True)
        return ratio


def measure_reference(report: Report, config: BlipConfig, work: Work, pictures: list[Pixels], args: Args) -> None:
    """(a) and (b)."""
    loaded = random_blip(config, "float32", args.device)
    reference(loaded, work.tiny(), pictures[0], batched=False)
    report.base, report.expected = timed(lambda: reference(loaded, work, pictures[0], False), args.device, args.repeats)
    report.line("a", "float32", report.base)
    if not args.skip_b:
        seconds, _ = timed(lambda: reference(loaded, work, pictures[0], True), args.device, args.repeats)
        report.line("b", "float32", seconds)


def measure_engine(
    report: Report, config: BlipConfig, work: Work, pictures: list[Pixels], args: Args, precision: str, peaks: Roofline
) -> None:
    """(c) and (d) in one precision."""
    run = EngineRun(random_blip(config, precision, args.device), len(pictures))
    run(work.tiny(), pictures)
    one, ids = timed(lambda: run(work, pictures[:1]), args.device, args.repeats + 2)
    limit = peaks.seconds(precision, work, 1)
    same = sum(map(list.__eq__, ids, report.expected))
    more = f", {same} of {len(ids)} texts have the ids of a" if report.expected else ""
    report.single[precision] = report.line("c", precision, one, f", {limit / one:4.0%} of the limit{more}")

    if args.device == "cuda":
        run(work, pictures)  # captures the graphs
    before = dataclasses.replace(run.engine.counters)
    many, _ = timed(lambda: run(work, pictures), args.device, args.repeats)
    each, limit = many / len(pictures), peaks.seconds(precision, work, len(pictures))
    report.share[precision] = round(limit / each, 3)
    report.throughput[precision] = report.line(
        "d", precision, each, f", {limit / each:4.0%} of the limit, {len(pictures)} at once"
    )
    after = run.engine.counters
    phases = {name: getattr(after, f"{name}_s") - getattr(before, f"{name}_s") for name in PHASES}
    parts = ", ".join(f"{name} {seconds / args.repeats:.1f} s" for name, seconds in phases.items())
    print(f"   of {many:.1f} s: {parts}; {(after.steps - before.steps) // args.repeats} steps", flush=True)


class Args(argparse.Namespace):
    lengths: str
    images: int
    repeats: int
    device: str
    precisions: list[str] | None
    model: str
    skip_a: bool
    skip_b: bool
    threads: int | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", choices=("full", "short"), default="short", help="short: a tenth of the tokens")
    parser.add_argument("--images", type=int, default=8, help="images at once in (d)")
    parser.add_argument("--repeats", type=int, default=1, help="runs of (a), (b) and (d); (c) has two more")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precisions", nargs="+", help="of float32, bfloat16, int8; float16 on a GPU")
    parser.add_argument("--model", choices=("large", "middle"), default="large")
    parser.add_argument("--skip-a", action="store_true", help="leave (a) and (b) out; there are no ratios then")
    parser.add_argument("--skip-b", action="store_true", help="leave (b) out")
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's default is one for each core")
    args = parser.parse_args(namespace=Args())
    if args.threads:
        torch.set_num_threads(args.threads)
    config = large_config() if args.model == "large" else middle_config()
    precisions = args.precisions or ["float32", "bfloat16", *(["int8"] if args.device == "cpu" else [])]
    work = Work(config.text_config.bos_token_id, 1.0 if args.lengths == "full" else 0.1)
    pictures = images(args.images, config.vision_config.image_size)

    report = Report()
    if not args.skip_a:
        measure_reference(report, config, work, pictures, args)
        gc.collect()
    peaks = Roofline.measure(args.device, config, precisions)
    print(f"   peaks: {peaks}", flush=True)
    for precision in precisions:
        measure_engine(report, config, work, pictures, args, precision, peaks)
        gc.collect()
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(json.dumps({
        "device": device, "model": args.model, "lengths": args.lengths, "images": args.images,
        "reference_s": report.base, "single_s": report.seconds["c"], "throughput_s": report.seconds["d"],
        "single_ratio": report.single, "throughput_ratio": report.throughput,
        "roofline_share": report.share, "peak_rss_mb": round(_peak_rss() / 1e6),
    }))  # fmt: skip


def _peak_rss() -> int:
    """Bytes, from Linux's VmHWM, which unlike getrusage's figure begins with this program."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
