"""How true the captions of held-out scenes are: `python -m demo.evaluate`.

Every strategy runs through the service's own pipeline; `demo.score` says what is counted. With
`--against` other engines and number formats caption the same scenes, and `identical` is the share of
texts that are the same to the letter.
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
from serve_app.engine import load, start
from serve_app.pipeline import CaptionPipeline
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.types import (
    ROUNDS_BY_DETAIL,
    CaptionOptions,
    EngineName,
    GenerateJob,
    GenerationParameters,
    Generator,
    Limits,
    ModelInfo,
    OnOutcome,
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
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        new = [job for job in jobs if (pixels.digest, job) not in self._known]
        for job, outcome in zip(new, await self.inner.generate(pixels, new, timeout_s), strict=True):
            self._known[pixels.digest, job] = outcome
        outcomes = [self._known[pixels.digest, job] for job in jobs]
        for index, outcome in enumerate(outcomes):
            if on_outcome is not None:
                on_outcome(index, outcome)
        return outcomes


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


@dataclass(frozen=True)
class Runner:
    """Which engine in which number format; written `decode:int8`."""

    engine: EngineName
    dtype: str

    @classmethod
    def parse(cls, text: str) -> Runner:
        engine, _, dtype = text.partition(":")
        if engine not in ("decode", "reference"):
            raise argparse.ArgumentTypeError(f"there is no engine {engine!r}; use decode or reference")
        return cls("decode" if engine == "decode" else "reference", dtype or "auto")


async def evaluate(args: argparse.Namespace, runner: Runner) -> dict[str, list[str]]:
    """Returns the texts of all scenes by strategy."""
    engine = start(load(args.model, dtype=runner.dtype), runner.engine)
    info = await engine.info()
    found: dict[str, list[str]] = {}
    begun = time.monotonic()
    for number, (data, _) in enumerate(_scenes(args.scenes), start=1):
        generator = Remembering(engine)
        pipeline = CaptionPipeline(generator)
        pixels = images.read(data, Limits(), info)
        texts = {"variants, greedy, united": " ".join(await _greedy(generator, pixels))}
        if not args.greedy_only:
            texts["basic"] = (await pipeline.caption(pixels, _options("basic", 1, args.seed))).caption
            for detail, rounds in ROUNDS_BY_DETAIL.items():
                result = await pipeline.caption(pixels, _options("classic", rounds, args.seed))
                texts[f"classic {detail}"] = result.caption
            for place, variant in enumerate(result.variants, start=1):
                texts[f"variant {place}"] = variant.text
        for name, text in texts.items():
            found.setdefault(name, []).append(text)
        if number % 20 == 0:
            print(f"{number} scenes, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, a local directory, or a hub id")
    parser.add_argument("--scenes", type=int, default=held_out.COUNT, help="beyond 200 they are drawn anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--greedy-only", action="store_true", help="only the greedy variants")
    parser.add_argument("--runner", type=Runner.parse, default=Runner("decode", "auto"), help="engine:dtype")
    parser.add_argument(
        "--against", type=Runner.parse, nargs="+", default=[], help="further engine:dtype, compared with --runner"
    )
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    args = parser.parse_args()
    scenes = [scene for _, scene in _scenes(args.scenes)]
    report: dict[str, dict[str, dict[str, float]]] = {}
    first: dict[str, list[str]] = {}
    for runner in (args.runner, *args.against):
        texts = asyncio.run(evaluate(args, runner))
        first = first or texts
        rows = report[f"{runner.engine}:{runner.dtype}"] = {}
        for name in texts:
            score = Score()
            for scene, text in zip(scenes, texts[name], strict=True):
                score.add(scene, text)
            same = sum(map(str.__eq__, texts[name], first[name])) / len(scenes)
            rows[name] = {**score.summary(), "identical": same}
    if not args.json:
        for name, rows in report.items():
            print(f"{name:26} {'recall':>8} {'wrong':>8} {'words':>8} {'identical':>10}")
            for strategy, row in rows.items():
                shares = f"{row['recall']:8.1%} {row['wrong']:8.1%} {row['words']:8.1f} {row['identical']:10.1%}"
                print(f"{strategy:26} {shares}")
    print(json.dumps({"scenes": args.scenes, "runners": report}))


if __name__ == "__main__":
    main()
