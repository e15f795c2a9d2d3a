"""How right the embedded answerer and matcher are on held-out scenes; run by `python -m lab.evaluate --questions`.

Answers count when they are the right one to the letter. For matching, each true statement stands against its false
twin with one thing swapped; the area under the ROC curve is the probability that a true one scores higher than a false
one, over all pairs of the set.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from lab import held_out, questions, statements
from lab.scenes import HELD_OUT_SEED, Scene
from serve_app.engine import load_answerer, load_matcher, start_answerer, start_matcher
from serve_app.limits import Limits
from serve_app.service import images

QUESTIONS_EACH = 8
PAIRS_EACH = 4


def auc(true: np.ndarray, false: np.ndarray) -> float:
    """Share of the pairs (true, false) in which the true one is higher, ties counting half."""
    lower = np.sort(false)
    wins = np.searchsorted(lower, true, "left") + np.searchsorted(lower, true, "right")
    return float(wins.sum() / (2 * len(true) * len(false)))


async def answering(model: str, scenes: Iterable[tuple[bytes, Scene]]) -> dict[str, Any]:
    engine = start_answerer(load_answerer(model))
    info = await engine.info()
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for index, (data, scene) in enumerate(scenes):
        rng = np.random.default_rng((HELD_OUT_SEED, index, 3))
        pixels = images.read(data, Limits(), info)
        kinds, texts, wanted = zip(*(questions.ask(rng, scene) for _ in range(QUESTIONS_EACH)), strict=True)
        answers = await engine.answers(pixels, texts)
        for kind, answer, want in zip(kinds, answers, wanted, strict=True):
            asked[kind] += 1
            right[kind] += answer.text == want
    engine.close()
    by_kind = {kind: round(right[kind] / asked[kind], 4) for kind in sorted(asked)}
    return {"questions": asked.total(), "exact": round(right.total() / asked.total(), 4), "by_kind": by_kind}


async def matching(model: str, scenes: Iterable[tuple[bytes, Scene]]) -> dict[str, Any]:
    engine = start_matcher(load_matcher(model))
    info = await engine.info()
    true: dict[str, list[float]] = {}
    false: dict[str, list[float]] = {}
    for index, (data, scene) in enumerate(scenes):
        rng = np.random.default_rng((HELD_OUT_SEED, index, 2))
        pairs = [statements.pair(rng, scene) for _ in range(PAIRS_EACH)]
        texts = [text for _, *both in pairs for text in both]
        found = await engine.match(images.read(data, Limits(), info), texts)
        for (swapped, *_), one, other in zip(pairs, found[::2], found[1::2], strict=True):
            true.setdefault(swapped, []).append(one.probability)
            false.setdefault(swapped, []).append(other.probability)
    engine.close()
    by_swap = {swap: round(auc(np.array(true[swap]), np.array(false[swap])), 4) for swap in sorted(true)}
    all_true, all_false = (
        np.array([score for scores in found.values() for score in scores]) for found in (true, false)
    )
    return {"pairs": len(all_true), "auc": round(auc(all_true, all_false), 4), "by_swap": by_swap}


def main(args: argparse.Namespace) -> None:
    report = {
        "scenes": args.scenes,
        "world": args.world,
        "answering": asyncio.run(answering(args.answerer or "demo", held_out.scenes_of(args.scenes, args.world))),
        "matching": asyncio.run(matching(args.matcher or "demo", held_out.scenes_of(args.scenes, args.world))),
    }
    if not args.json:
        for task in ("answering", "matching"):
            print(task, *(f"{name} {value}" for name, value in report[task].items()), sep="\n  ")
    print(json.dumps(report))
