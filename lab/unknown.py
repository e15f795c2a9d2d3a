"""What the models say of photographs, of which they know nothing; run by `python -m lab.evaluate --photographs`.

The pictures are crops of photographs that scikit-image and scikit-learn ship (`lab.photographs.HELD_OUT`), none of
which stood behind a scene in training. A right caption claims nothing with a support above `LIKELY`.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from lab import photographs
from lab.objects import nouns_in
from lab.scenes import HELD_OUT_SEED
from serve_app.args import matcher_for
from serve_app.engine import load, load_matcher, start, start_matcher
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline, Support
from serve_app.pipeline.grounded import LIKELY, LITTLE
from serve_app.service import images
from serve_app.types import ROUNDS_BY_DETAIL, CaptionOptions, CaptionResult

COUNT = 200
SIZE = 224
"""Side in pixels of a crop."""
TIMEOUT_S = 600.0


def crops(count: int = COUNT) -> Iterator[Image.Image]:
    """Crops of the held-out photographs in turn. Raises `PhotographsMissing`."""
    every = photographs.held_out()
    for index in range(count):
        rng = np.random.default_rng((HELD_OUT_SEED, index, 4))
        yield photographs.crop(rng, every[index % len(every)], SIZE)


def believed(result: CaptionResult) -> list[str]:
    """The statements about things that a caption makes with a support above `LIKELY`."""
    return [each.statement for each in result.clauses if (each.score or 0.0) > LIKELY and nouns_in(each.statement)]


async def captions(model: str, matcher_name: str | None, seed: int) -> list[CaptionResult]:
    engine = start(load(model))
    matcher = start_matcher(load_matcher(matcher_name)) if matcher_name else None
    pipeline = CaptionPipeline(engine, matcher=matcher, support=Support.of(matcher_name, model))
    info = await engine.info()
    found = []
    for crop in crops():
        buffer = io.BytesIO()
        crop.save(buffer, "PNG")
        options = CaptionOptions("grounded", ROUNDS_BY_DETAIL["high"], (), seed, TIMEOUT_S)
        found.append(await pipeline.caption(images.read(buffer.getvalue(), Limits(), info), options))
    for each in (engine, matcher):
        if each is not None:
            each.close()
    return found


def main(args: argparse.Namespace) -> None:
    found = asyncio.run(captions(args.model, matcher_for([args.model], args.matcher), args.seed))
    wrong = [result for result in found if believed(result)]
    report: dict[str, Any] = {
        "photographs": len(found),
        "without a claim above 0.5": round(1 - len(wrong) / len(found), 4),
        "with the notice": round(sum(LITTLE in result.notices for result in found) / len(found), 4),
    }
    if not args.json:
        for result in wrong:
            print(result.caption, believed(result), sep="\n  ")
        print(*(f"{name} {value}" for name, value in report.items()), sep="\n")
    print(json.dumps(report))
