"""What several captioners are worth together: `python -m lab.committee --scenes 500`.

Each captioner alone and all of them, by the strategy `grounded` at detail high, on held-out scenes: objects named,
wrong ones of those named, and seconds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from lab import held_out
from lab.score import Score
from serve_app.args import matcher_for
from serve_app.engine import load_matcher, open_captioner, start_matcher
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline, Committee, Member, Support
from serve_app.pipeline.run import SEVERAL
from serve_app.service import images
from serve_app.types import ROUNDS_BY_DETAIL, CaptionOptions

OPTIONS = CaptionOptions("grounded", ROUNDS_BY_DETAIL["high"], (), 0, 600.0)


async def evaluate(models: Sequence[str], matcher_name: str | None, world: str, count: int) -> dict[str, Any]:
    """The figures of each captioner and of all together."""
    engines = {model: open_captioner(model) for model in models}
    matcher = None if matcher_name is None else start_matcher(load_matcher(matcher_name))
    support = Support.of(matcher_name, models[0])
    together = Committee([Member(name, engine) for name, engine in engines.items()])
    pipelines = {name: CaptionPipeline(engine, matcher=matcher, support=support) for name, engine in engines.items()}
    pipelines[SEVERAL.join(models)] = CaptionPipeline(together, matcher=matcher, support=support)
    sizes = {(await engine.info()).size for engine in engines.values()}
    scores = {name: Score() for name in pipelines}
    seconds = dict.fromkeys(pipelines, 0.0)
    for data, scene in held_out.scenes_of(count, world):
        picture = images.read_all(data, Limits(), sizes)
        for name, pipeline in pipelines.items():
            begun = time.perf_counter()
            result = await pipeline.caption(picture, OPTIONS)
            seconds[name] += time.perf_counter() - begun
            scores[name].add(scene, result.caption)
    for model in (*engines.values(), matcher):
        if model is not None:
            model.close()
    return {
        name: {**score.summary(), "seconds": round(seconds[name] / count, 3), "intervals": score.intervals()}
        for name, score in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["demo", "demo-vit"], help="each demo…, a directory, or a hub id"
    )
    parser.add_argument("--matcher", default=None, help="the same; none disables it")
    parser.add_argument("--world", choices=list(held_out.DRAWS), default="grid")
    parser.add_argument("--scenes", type=int, default=held_out.COUNT)
    args = parser.parse_args()
    rows = asyncio.run(evaluate(args.models, matcher_for(["demo"], args.matcher), args.world, args.scenes))
    for name, row in rows.items():
        told = ", ".join(f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
        print(f"{name:20} {told}")
    print(json.dumps({"scenes": args.scenes, "world": args.world, "captioners": rows}))


if __name__ == "__main__":
    main()
