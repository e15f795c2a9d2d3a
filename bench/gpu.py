"""What the engine does on a GPU: `python -m bench.gpu`, the first command for somebody with a card.

It needs no ray. It starts the engine on the embedded model, compares token ids with transformers', and measures
BLIP-large with random weights, where every beam runs to its full length: seconds an image alone, images a second when
full, time a step, the share of the card's limit, and short greedy captions. It ends within eight minutes.

    python -m bench.gpu
    python -m bench.gpu --fake        # no GPU: what is launched, what the host waits for, memory; and a prediction

The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BlipConfig

from bench.engine import EngineRun, Work, images
from bench.random_blip import large_config, middle_config, pretended_blip, random_blip
from bench.rehearsal import Rehearsal
from bench.roofline import Roofline
from serve_app.engine import AsyncEngine, load
from serve_app.engine.encoder import SIZES
from serve_app.engine.engine import Engine
from serve_app.engine.kernels import Kernels
from serve_app.engine.kernels.torch_kernels import TorchKernels
from serve_app.engine.kernels.triton_kernels import TritonKernels
from serve_app.engine.loading import Loaded
from serve_app.engine.parameters import given, resolve
from serve_app.engine.pixels import Normalizer
from serve_app.engine.precision import Precision
from serve_app.engine.scheduler import Group
from serve_app.errors import CaptionServeError
from serve_app.types import EngineLimits, Generated, GenerateJob, GenerationParameters, Pixels

DRAWS = 30
GREEDY = GenerationParameters(max_length=31, min_length=31, num_beams=1, do_sample=False)
GREEDY_IMAGES = 64
STEPS = 50
H100 = Roofline({"bfloat16": 989e12}, 3.35e12, 0, 0, 0, 0, 0)
"""Dense bfloat16 operations and bytes a second that NVIDIA gives for an H100 SXM5."""
LAUNCH_S = 1.3e-6
"""A kernel in a CUDA graph on an H100 (Hazy Research, Look Ma, No Bubbles, 2025)."""


@dataclass
class Jobs:
    """Groups on an engine without a thread."""

    engine: Engine
    loaded: Loaded

    def submit(
        self, picture: Pixels, ids: list[int], parameters: GenerationParameters, seed: int, into: list[Any]
    ) -> None:
        defaults = self.loaded.model.text_decoder.generation_config
        checked = resolve(parameters, defaults, parameters.max_length or 0, len(ids))
        self.engine.submit(Group(picture, ids, checked, seed, into.append))

    def run(self) -> None:
        while not self.engine.idle:
            self.engine.step()


def parity(device: str) -> tuple[int, int]:
    """(the same, drawn): random requests, greedy or with beams, whose ids are those of transformers in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    reference = random_blip(middle_config(), device=device)
    jobs = Jobs(Engine(random_blip(middle_config(), device=device), EngineLimits()), reference)
    jobs.engine.warm_up()
    rng, pictures, same = random.Random(5), images(4, 64), 0
    for _ in range(DRAWS):
        ids = [1998, *(rng.randrange(6, 100) for _ in range(rng.choice((0, 1, 3, 12))))]
        parameters = GenerationParameters(
            max_length=len(ids) + rng.choice((2, 8, 25)),
            num_beams=rng.choice((1, 2, 4, 7, 8)),
            do_sample=False,
            repetition_penalty=rng.choice((None, 1.2, 1.8)),
            no_repeat_ngram_size=rng.choice((None, 2, 4)),
        )
        picture = rng.choice(pictures)
        found: list[Any] = []
        jobs.submit(picture, ids, parameters, 0, found)
        jobs.run()
        same += not isinstance(found[0], CaptionServeError) and found[0][0].ids == _by_transformers(
            reference, picture, ids, parameters
        )
    return same, DRAWS


@torch.inference_mode()
def _by_transformers(loaded: Loaded, picture: Pixels, ids: list[int], parameters: GenerationParameters) -> list[int]:
    pixel_values = Normalizer(loaded.mean, loaded.std, loaded.info)(picture)
    prompt = torch.tensor([[*ids, 0]], device=pixel_values.device)
    found = loaded.model.generate(pixel_values=pixel_values, input_ids=prompt, **given(parameters))[0].tolist()
    end = loaded.model.config.text_config.sep_token_id
    return found[: found.index(end, len(ids)) + 1] if end in found[len(ids) :] else found


async def starts(device: str) -> str:
    """A caption by the embedded model, through the thread that serves."""
    engine = AsyncEngine(load("demo", device=device))
    picture = images(1, 128)[0]
    parameters = GenerationParameters(max_length=30, num_beams=8, do_sample=True)
    (outcome,) = await engine.generate(picture, [GenerateJob("a photography of", parameters)], timeout_s=60)
    engine.close()
    assert isinstance(outcome, Generated), outcome
    return outcome.text


def step_ms(run: EngineRun, work: Work, pictures: list[Pixels]) -> float:
    """Milliseconds of a step while the variants of all pictures run."""
    jobs = Jobs(run.engine, run.loaded)
    for picture in pictures:
        for number, (ids, parameters) in enumerate(work.variants):
            jobs.submit(picture, ids, replace(parameters, min_length=parameters.max_length), number, [])
    for _ in range(len(pictures) + 5):  # an image a step is encoded, and prompts are fed
        run.engine.step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        run.engine.step()
    torch.cuda.synchronize()
    taken = time.perf_counter() - start
    run.engine.fail_all(CaptionServeError("measured"))
    return taken / STEPS * 1000


def measure(config: BlipConfig, at_once: int, dtype: str) -> dict[str, Any]:
    device = f"cuda:{torch.cuda.current_device()}"
    report: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(f"{report['device']}, torch {report['torch']}", flush=True)
    print(f"the embedded model says: {asyncio.run(starts(device))!r}", flush=True)
    report["parity"] = parity(device)
    print(f"token ids as transformers in float32: {report['parity'][0]} of {report['parity'][1]}", flush=True)

    dtype = Precision.of(dtype, torch.device(device)).name
    work = Work(config.text_config.bos_token_id, 1.0)
    pictures = images(at_once, config.vision_config.image_size)
    start = time.perf_counter()
    run = EngineRun(random_blip(config, dtype, device), at_once)
    report |= {"dtype": dtype, "warm_up_s": time.perf_counter() - start, "graphs": run.engine.graphs}
    report["kernels"] = type(run.engine.decoder.kernels).__name__
    print(f"{report['kernels']}, warm-up {report['warm_up_s']:.1f} s, {report['graphs']} graphs", flush=True)
    peaks = Roofline.measure("cuda", config, [] if dtype == "fp8" else [dtype])
    torch.cuda.reset_peak_memory_stats()
    alone = []
    for _ in range(3):
        start = time.perf_counter()
        run(work, pictures[:1])
        alone.append(time.perf_counter() - start)
    report["one_image_s"] = statistics.median(alone)
    report["limit_one_image_s"] = peaks.seconds(dtype, work, 1)
    print(f"one image {report['one_image_s']:.3f} s, limit {report['limit_one_image_s']:.3f} s", flush=True)
    report["step_ms"] = {count: step_ms(run, work, pictures[:count]) for count in (1, at_once)}
    print(f"step of one image's variants and of {at_once}'s: {report['step_ms']} ms", flush=True)
    start = time.perf_counter()
    run(work, pictures)
    seconds = time.perf_counter() - start
    report["images_s"] = len(pictures) / seconds
    report["limit_images_s"] = 1 / peaks.seconds(dtype, work, at_once)
    report["share_of_limit"] = report["images_s"] / report["limit_images_s"]
    print(f"{at_once} at once: {report['images_s']:.1f} images/s, limit {report['limit_images_s']:.1f}", flush=True)

    jobs, found = Jobs(run.engine, run.loaded), []
    many = images(GREEDY_IMAGES, config.vision_config.image_size)
    start = time.perf_counter()
    for picture in many:
        jobs.submit(picture, [config.text_config.bos_token_id], GREEDY, 0, found)
    jobs.run()
    report["captured_while_serving"] = run.engine.graphs - report["graphs"]
    report["failed_captures"] = run.engine.device.failures
    report["greedy_images_s"] = len(found) / (time.perf_counter() - start)
    print(f"greedy, 30 tokens, {GREEDY_IMAGES} images: {report['greedy_images_s']:.1f} images/s", flush=True)
    report["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return report


def rehearse(config: BlipConfig, limits: EngineLimits, kernels: Kernels) -> dict[str, Any]:
    """The same life on pretended tensors: warm-up, an image's variants, steps, the end."""
    device = Rehearsal(torch.device("cuda", 0))
    with device.rehearsed():
        loaded = pretended_blip(config, "bfloat16", device.place)
        engine = Engine(loaded, limits, device, kernels)
        engine.warm_up()
        encoders = len(SIZES)
        encoder, graphs = device.captured[encoders - 1], device.captured[encoders:]
        jobs, found = Jobs(engine, loaded), []
        picture = Pixels("picture", config.vision_config.image_size, config.vision_config.image_size, b"")
        picture = replace(picture, data=bytes(picture.height * picture.width * 3))
        for number, (ids, parameters) in enumerate(Work(config.text_config.bos_token_id, 1.0).variants):
            jobs.submit(picture, ids, parameters, number, found)
        for _ in range(3):
            engine.step()
        waits, replays = device.waits, device.replays
        for _ in range(STEPS):
            engine.step()
        steps = device.replays - replays
        waits = device.waits - waits
        device.says = 1
        jobs.run()
    return {
        "host_waits_per_step": waits / steps,
        "launches_per_step": max(graph.total() for graph in graphs),
        "launches_per_image": encoder.total(),
        "graphs": len(graphs),
        "captured_while_serving": len(device.captured) - len(graphs) - encoders,
        "memory_gb": round(device.watch.peak / 1e9, 2),
        "most_launched": dict(graphs[0].most_common(12)),
    }


def predicted(report: dict[str, Any], config: BlipConfig) -> dict[str, float]:
    """Seconds by counted launches and bytes on an H100: a prediction, not a measurement."""
    work = Work(config.text_config.bos_token_id, 1.0)
    sizes = Roofline.sizes(config)
    peaks = replace(H100, **sizes)
    launches = work.steps * report["launches_per_step"] * LAUNCH_S
    return {
        "predicted_one_image_s": round(peaks.seconds("bfloat16", work, 1) + launches, 3),
        "predicted_limit_images_s": round(1 / peaks.seconds("bfloat16", work, 32), 1),
        "predicted_limit_images_s_fp8": round(1 / peaks.seconds("fp8", work, 32), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fake", action="store_true", help="pretend a GPU: counts instead of times")
    parser.add_argument("--model", choices=("large", "middle"), default="large")
    parser.add_argument("--images", type=int, default=8, help="images at once")
    parser.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float16", "fp8"), default="auto", help="for the speeds"
    )
    args = parser.parse_args()
    config = large_config() if args.model == "large" else middle_config()
    if args.fake:
        report = rehearse(config, EngineLimits(), TorchKernels())
        with_kernels = rehearse(config, EngineLimits(), TritonKernels())
        report["launches_with_kernels"] = with_kernels["launches_per_step"]
        report |= predicted(with_kernels, config)
    elif not torch.cuda.is_available():
        parser.error("there is no CUDA device; --fake pretends one")
    else:
        report = measure(config, args.images, args.dtype)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
