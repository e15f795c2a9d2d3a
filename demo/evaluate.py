"""How true the captions of held-out scenes are: `python -m demo.evaluate`.

Every strategy runs through the service's own pipeline; `demo.score` says what is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from demo import held_out
from demo.scenes import HELD_OUT_SEED, Scene, draw_scene
from demo.score import Score
from serve_app.api import images
from serve_app.engine import ReferenceGenerator, load
from serve_app.pipeline import CaptionPipeline
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.types import (
    ROUNDS_BY_DETAIL,
    CaptionOptions,
    GenerateJob,
    GenerationParameters,
    Generator,
    Limits,
    ModelInfo,
    Outcome,
    Pixels,
    Strategy,
)

GREEDY = GenerationParameters(num_beams=1, do_sample=False, max_length=150)
TIMEOUT_S = 600.0


@dataclass
class Remembering:
    """A Generator that answers a job that it has seen without running it again.

    Detail levels share their first steps, and every job's random stream is fixed by its seed.
    """

    inner: Generator
    _known: dict[tuple[str, GenerateJob], Outcome] = field(default_factory=dict)

    async def info(self) -> ModelInfo:
        return await self.inner.info()

    async def generate(
        self, pixels: Pixels, jobs: Sequence[GenerateJob], timeout_s: float | None = None
    ) -> list[Outcome]:
        new = [job for job in jobs if (pixels.digest, job) not in self._known]
        for job, outcome in zip(new, await self.inner.generate(pixels, new, timeout_s), strict=True):
            self._known[pixels.digest, job] = outcome
        return [self._known[pixels.digest, job] for job in jobs]


def _scenes(count: int) -> Iterable[tuple[bytes, Scene]]:
    for number, (file, scene) in enumerate(held_out.read()):
        if number < count:
            yield file.read_bytes(), scene
    for index in range(held_out.COUNT, count):
        image, scene = draw_scene((HELD_OUT_SEED, index))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield buffer.getvalue(), scene


def _options(strategy: Strategy, rounds: int, seed: int) -> CaptionOptions:
    return CaptionOptions(strategy, rounds, (), seed, TIMEOUT_S)


async def _greedy(generator: Generator, pixels: Pixels) -> list[str]:
    outcomes = await generator.generate(pixels, [GenerateJob(prompt, GREEDY) for prompt in VARIANT_PROMPTS])
    return ["" if isinstance(outcome, Exception) else outcome.text for outcome in outcomes]


async def evaluate(model: str, count: int, seed: int, greedy_only: bool) -> dict[str, dict[str, float]]:
    """Returns recall, wrong and words by strategy."""
    engine = ReferenceGenerator(load(model))
    info = await engine.info()
    scores: dict[str, Score] = {}
    start = time.monotonic()
    for number, (data, scene) in enumerate(_scenes(count), start=1):
        generator = Remembering(engine)
        pipeline = CaptionPipeline(generator)
        pixels = images.read(data, Limits(), info)
        texts = {"variants, greedy, united": " ".join(await _greedy(generator, pixels))}
        if not greedy_only:
            texts["basic"] = (await pipeline.caption(pixels, _options("basic", 1, seed))).caption
            for detail, rounds in ROUNDS_BY_DETAIL.items():
                result = await pipeline.caption(pixels, _options("classic", rounds, seed))
                texts[f"classic {detail}"] = result.caption
            for place, variant in enumerate(result.variants, start=1):
                texts[f"variant {place}"] = variant.text
        for name, text in texts.items():
            scores.setdefault(name, Score()).add(scene, text)
        if number % 20 == 0:
            print(f"{number} scenes, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    engine.close()
    return {name: score.summary() for name, score in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, a local directory, or a hub id")
    parser.add_argument("--scenes", type=int, default=held_out.COUNT, help="beyond 200 they are drawn anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--greedy-only", action="store_true", help="only the greedy variants")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    args = parser.parse_args()
    strategies = asyncio.run(evaluate(args.model, args.scenes, args.seed, args.greedy_only))
    if not args.json:
        print(f"{'':26} {'recall':>8} {'wrong':>8} {'words':>8}")
        for name, row in strategies.items():
            print(f"{name:26} {row['recall']:8.1%} {row['wrong']:8.1%} {row['words']:8.1f}")
    print(json.dumps({"scenes": args.scenes, "strategies": strategies}))


if __name__ == "__main__":
    main()
