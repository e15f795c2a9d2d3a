"""How true the captions of held-out scenes are: `python -m lab.evaluate`.

Every strategy runs through the service's own pipeline; `lab.score` says what is counted. The score of the gate, the
matcher's, is no measure here. `--against` runs further engines and number formats; `identical` is then the share of
texts that are the same to the letter.

    python -m lab.evaluate --scenes 500                      # all strategies, about twenty minutes on two cores
    python -m lab.evaluate --world unseen --scenes 500       # scenes by composers that training never uses
    python -m lab.evaluate --questions                       # question answering and matching instead
    python -m lab.evaluate --photographs                     # what is said of pictures of unknown things
    python -m lab.evaluate --images DIR --annotations captions.json --instances instances.json   # COCO's format
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab import coco, held_out, tasks, unknown
from lab.composers import HELD_OUT
from lab.scenes import Scene
from lab.score import MEASURES, Score
from serve_app.args import matcher_for
from serve_app.engine import load, load_answerer, load_matcher, start, start_answerer, start_matcher
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline, Support
from serve_app.pipeline.clean import clean
from serve_app.pipeline.language.writing import tidied
from serve_app.pipeline.presets import VARIANT_PROMPTS, Presets
from serve_app.service import images
from serve_app.task_types import Answer, Answerer
from serve_app.types import (
    ROUNDS_BY_DETAIL,
    CaptionOptions,
    EngineName,
    Generated,
    GenerateJob,
    GenerationParameters,
    Generator,
    Match,
    Matcher,
    ModelInfo,
    OnOutcome,
    Outcome,
    Pixels,
    Strategy,
)

GREEDY = GenerationParameters(num_beams=1, do_sample=False, max_length=150)
TIMEOUT_S = 600.0
BY_COMPOSER = "grounded high"
"""The strategy that is told apart by composer."""
SEQUENCES = 3
"""Of each variant, for the best of N by match score."""


NUMBERS = ("words", "seconds", "generate_calls", "match_calls", "questions")
"""Columns of the table that are no shares."""


@dataclass
class Cost:
    """What a caption took: seconds, generate jobs, matcher calls and questions."""

    seconds: float = 0.0
    generated: int = 0
    matched: int = 0
    asked: int = 0


@dataclass
class Remembering:
    """A Generator, Matcher and Answerer that answers a generate call that it has seen from memory, and charges what it
    took then.

    Detail levels share their first steps, and every job's random stream is fixed by its seed.
    """

    generator: Generator
    matcher: Matcher | None
    answerer: Answerer | None = None
    cost: Cost = field(default_factory=Cost)
    """Its seconds are those that memory saved."""
    _calls: dict[tuple[GenerateJob, ...], tuple[list[Outcome], float]] = field(default_factory=dict)

    async def info(self) -> ModelInfo:
        return await self.generator.info()

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        key = tuple(jobs)
        self.cost.generated += len(jobs)
        if key in self._calls:
            outcomes, seconds = self._calls[key]
            self.cost.seconds += seconds
        else:
            begun = time.perf_counter()
            outcomes = await self.generator.generate(pixels, jobs, timeout_s)
            self._calls[key] = outcomes, time.perf_counter() - begun
        for index, outcome in enumerate(outcomes):
            if on_outcome is not None:
                on_outcome(index, outcome)
        return outcomes

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        assert self.matcher is not None
        self.cost.matched += 1
        return await self.matcher.match(pixels, texts, timeout_s, similarity=similarity)

    async def answers(self, pixels: Pixels, questions: Sequence[str], timeout_s: float | None = None) -> list[Answer]:
        assert self.answerer is not None
        self.cost.asked += len(questions)
        return await self.answerer.answers(pixels, questions, timeout_s)


@dataclass(frozen=True)
class Runner:
    """Which engine in which number format; written `decode:int8`."""

    engine: EngineName
    dtype: str

    @classmethod
    def parse(cls, text: str) -> Runner:
        engine, _, dtype = text.partition(":")
        if engine not in ("decode", "reference", "transformers"):
            raise argparse.ArgumentTypeError(f"there is no engine {engine!r}; use decode or transformers")
        return cls("decode" if engine == "decode" else "reference", dtype or "auto")


@dataclass
class Texts:
    """The captions of all scenes by one strategy, and what they took."""

    texts: list[str] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def cost(self) -> dict[str, float]:
        count = max(1, len(self.costs))
        return {
            "seconds": round(sum(cost.seconds for cost in self.costs) / count, 4),
            "generate_calls": round(sum(cost.generated for cost in self.costs) / count, 2),
            "match_calls": round(sum(cost.matched for cost in self.costs) / count, 2),
            "questions": round(sum(cost.asked for cost in self.costs) / count, 2),
        }


class Evaluation:
    """Captions one image by every strategy."""

    def __init__(
        self,
        generator: Generator,
        matcher: Matcher | None,
        answerer: Answerer | None,
        support: Support,
        seed: int,
        greedy_only: bool,
    ) -> None:
        self._answerer = answerer
        self._generator = generator
        self._matcher = matcher
        self._support = support
        self._seed = seed
        self._greedy_only = greedy_only
        self.found: dict[str, Texts] = {}

    async def caption(self, pixels: Pixels) -> None:
        models = Remembering(self._generator, self._matcher, self._answerer)
        await self._run("variants, greedy, united", models, _greedy(models, pixels))
        if self._greedy_only:
            return
        await self._run("basic", models, self._strategy(models, pixels, "basic", 1, False))
        if self._matcher is not None:
            await self._run("best of N", models, _best_of_n(models, pixels, self._seed))
        runs: tuple[tuple[Strategy, bool], ...] = (("classic", False), ("grounded", False), ("grounded", True))
        for strategy, matched in runs:
            if matched and self._matcher is None:
                continue
            for detail, rounds in ROUNDS_BY_DETAIL.items():
                name = f"{strategy} {detail}" + (", no matcher" if strategy == "grounded" and not matched else "")
                await self._run(name, models, self._strategy(models, pixels, strategy, rounds, matched))
        if self._matcher is not None and self._answerer is not None:
            for detail, rounds in ROUNDS_BY_DETAIL.items():
                if rounds > 1:
                    asking = self._strategy(models, pixels, "grounded", rounds, True, asks=True)
                    await self._run(f"grounded {detail}, asking", models, asking)

    async def _strategy(
        self,
        models: Remembering,
        pixels: Pixels,
        strategy: Strategy,
        rounds: int,
        matched: bool,
        asks: bool = False,
    ) -> str:
        pipeline = CaptionPipeline(
            models,
            matcher=models if matched else None,
            support=self._support,
            answerer=models if asks else None,
        )
        return (await pipeline.caption(pixels, CaptionOptions(strategy, rounds, (), self._seed, TIMEOUT_S))).caption

    async def _run(self, name: str, models: Remembering, work: Coroutine[Any, Any, str]) -> None:
        models.cost = Cost()
        begun = time.perf_counter()
        text = await work
        models.cost.seconds += time.perf_counter() - begun
        texts = self.found.setdefault(name, Texts())
        texts.texts.append(text)
        texts.costs.append(models.cost)


async def _greedy(models: Remembering, pixels: Pixels) -> str:
    outcomes = await models.generate(pixels, [GenerateJob(prompt, GREEDY) for prompt in VARIANT_PROMPTS])
    return " ".join("" if isinstance(outcome, Exception) else outcome.text for outcome in outcomes)


async def _best_of_n(models: Remembering, pixels: Pixels, seed: int) -> str:
    """Of all sequences of all variants, the one with the best match score."""
    parameters = replace(Presets().variant, num_return_sequences=SEQUENCES)
    outcomes = await models.generate(pixels, [GenerateJob(prompt, parameters, seed) for prompt in VARIANT_PROMPTS])
    texts = [
        tidied(clean(one.text))
        for outcome in outcomes
        if isinstance(outcome, Generated)
        for one in (outcome, *outcome.alternatives)
    ]
    scores = [match.probability for match in await models.match(pixels, texts)]
    return max(zip(scores, texts, strict=True))[1]


async def evaluate(args: argparse.Namespace, runner: Runner) -> dict[str, Texts]:
    """Returns the texts of all scenes by strategy."""
    engine = start(load(args.model, dtype=runner.dtype), runner.engine)
    name = matcher_for([args.model], args.matcher)
    matcher = start_matcher(load_matcher(name)) if name else None
    info = await engine.info()
    asked = matcher_for([args.model], args.answerer)
    answerer = None if asked is None else start_answerer(load_answerer(asked))
    evaluation = Evaluation(engine, matcher, answerer, Support.of(name, args.model), args.seed, args.greedy_only)
    begun = time.monotonic()
    for number, (data, _) in enumerate(held_out.scenes_of(args.scenes, args.world), start=1):
        await evaluation.caption(images.read(data, Limits(), info))
        if number % 20 == 0:
            print(f"{number} scenes, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    for model in (engine, matcher, answerer):
        if model is not None:
            model.close()
    return evaluation.found


def report_of(scenes: Sequence[Scene], texts: dict[str, Texts], first: dict[str, Texts]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, found in texts.items():
        score = Score()
        for scene, text in zip(scenes, found.texts, strict=True):
            score.add(scene, text)
        same = sum(map(str.__eq__, found.texts, first[name].texts)) / len(scenes)
        rows[name] = {**score.summary(), **found.cost(), "identical": same, "intervals": score.intervals()}
    return rows


def by_composer(scenes: Sequence[Scene], texts: dict[str, Texts], strategy: str) -> dict[str, dict[str, Any]]:
    """The figures of one strategy for each of the composers that training never uses."""
    rows = {}
    for place, composer in enumerate(HELD_OUT):
        score = Score()
        for scene, text in list(zip(scenes, texts[strategy].texts, strict=True))[place :: len(HELD_OUT)]:
            score.add(scene, text)
        rows[composer.__name__] = {**score.summary(), "intervals": score.intervals()}
    return rows


def table(name: str, rows: dict[str, dict[str, Any]]) -> str:
    shares = [measure for measure in MEASURES if measure != "words"]
    numbers = [each for each in NUMBERS if each in next(iter(rows.values()))]
    lines = [f"{name:28}" + "".join(f"{title:>22}" for title in shares) + "".join(f"{title:>16}" for title in numbers)]
    for strategy, row in rows.items():
        cells = (
            f"{row[measure]:.1%} ({row['intervals'][measure][0]:.1%}–{row['intervals'][measure][1]:.1%})"
            for measure in shares
        )
        lines.append(
            f"{strategy:28}"
            + "".join(f"{cell:>22}" for cell in cells)
            + "".join(f"{row[number]:>16.3g}" for number in numbers)
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="demo, a local directory, or a hub id")
    parser.add_argument("--matcher", help="the same; none disables it (default: demo with --model demo, else none)")
    parser.add_argument("--answerer", help="the same, for captions that ask, and for --questions")
    parser.add_argument("--world", choices=list(held_out.DRAWS), default="grid", help="of the scenes")
    parser.add_argument("--scenes", type=int, default=held_out.COUNT, help="beyond 200 they are drawn anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--greedy-only", action="store_true", help="only the greedy variants")
    parser.add_argument("--questions", action="store_true", help="question answering and matching, no captions")
    parser.add_argument("--photographs", action="store_true", help="pictures of unknown things instead")
    parser.add_argument("--runner", type=Runner.parse, default=Runner("decode", "auto"), help="engine:dtype")
    parser.add_argument(
        "--against", type=Runner.parse, nargs="+", default=[], help="further engine:dtype, compared with --runner"
    )
    parser.add_argument("--images", type=Path, help="directory of images that the annotations name")
    parser.add_argument("--annotations", type=Path, help="captions in COCO's format")
    parser.add_argument("--instances", type=Path, help="objects in COCO's format, for CHAIR")
    parser.add_argument("--strategy", default="grounded", help="of --images")
    parser.add_argument("--limit", type=int, help="most images of --images")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    args = parser.parse_args()
    if (args.images is None) != (args.annotations is None):
        parser.error("--images and --annotations go together")
    if args.images is not None:
        coco.main(args)
        return
    if args.questions:
        tasks.main(args)
        return
    if args.photographs:
        unknown.main(args)
        return
    scenes = [scene for _, scene in held_out.scenes_of(args.scenes, args.world)]
    composers: dict[str, dict[str, Any]] = {}
    report: dict[str, dict[str, dict[str, Any]]] = {}
    first: dict[str, Texts] = {}
    for runner in (args.runner, *args.against):
        texts = asyncio.run(evaluate(args, runner))
        first = first or texts
        name = f"{runner.engine}:{runner.dtype}"
        report[name] = report_of(scenes, texts, first)
        if args.world == "unseen":
            composers[name] = by_composer(scenes, texts, next(iter(texts)) if args.greedy_only else BY_COMPOSER)
        if not args.json:
            print(table(name, report[name]))
            if name in composers:
                print(table(f"{name}, by composer", composers[name]))
    found = {"scenes": args.scenes, "world": args.world, "runners": report}
    print(json.dumps(found | ({"composers": composers} if composers else {})))


if __name__ == "__main__":
    main()
