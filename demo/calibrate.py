"""Floors of the grounded strategy from labelled clauses: `python -m demo.calibrate`.

Scenes of a stream that neither training nor evaluation draws are captioned; every clause of every variant, extension
and round is true or false by the scene (`demo.facts`). Two logistic regressions are fitted, with the matcher's score
and without it, and the floor is the lowest support from which on at most `--wrong` of the clauses that pass are false.
The figures go into `serve_app.pipeline.scores` by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from demo.facts import claims
from demo.objects import nouns_in
from demo.scenes import CALIBRATION_SEED, Scene, draw_scene
from serve_app.api import images
from serve_app.engine import load, load_matcher, start, start_matcher
from serve_app.pipeline.clauses import split
from serve_app.pipeline.clean import clean
from serve_app.pipeline.grounded import SEQUENCES
from serve_app.pipeline.noise import denoise
from serve_app.pipeline.presets import EXTENSION_PROMPTS, ROUND_PROMPT, VARIANT_PROMPTS, Presets
from serve_app.pipeline.refine import added, fill
from serve_app.pipeline.scores import Agreement, Candidate, per_token
from serve_app.types import Generated, GenerateJob, Generator, Limits, Pixels

FEATURES = ("named", "said", "likely")
LEAST = 0.02
MIN_PASSING = 50
"""Clauses that must lie above a floor for its share of false ones to mean something."""


@dataclass(frozen=True)
class Labelled:
    """A clause with its text, its score by the matcher, its features without one, and whether it is true."""

    text: str
    score: float
    features: tuple[float, float, float]
    true: bool


def is_true(scene: Scene, text: str) -> bool | None:
    """None for a clause that claims nothing that can be checked."""
    named, claimed = nouns_in(text), claims(text)
    if not named and not claimed:
        return None
    return named <= scene.nouns and all(claim.holds(scene) for claim in claimed)


async def candidates_of(generator: Generator, pixels: Pixels) -> tuple[list[Candidate], list[str]]:
    """The candidates of the variants, and what extensions and a round say beyond the first of them."""
    presets = Presets()
    several = replace(presets.variant, num_return_sequences=SEQUENCES)
    outcomes = await generator.generate(pixels, [GenerateJob(prompt, several, 1) for prompt in VARIANT_PROMPTS])
    found = [
        Candidate(denoise(clean(one.text)), number, per_token(one, several))
        for number, outcome in enumerate(outcomes, start=1)
        if isinstance(outcome, Generated)
        for one in (outcome, *outcome.alternatives)
    ]
    longest = max((candidate.text for candidate in found), key=len)
    prompts = [
        *((fill(prompt, longest), presets.extension) for prompt in EXTENSION_PROMPTS[:1]),
        (fill(ROUND_PROMPT, longest), presets.round),
    ]
    later = await generator.generate(pixels, [GenerateJob(*pair, 1) for pair in prompts])
    return found, [denoise(added(longest, clean(one.text))) for one in later if isinstance(one, Generated)]


async def label(count: int, matcher_name: str) -> list[Labelled]:
    generator, matcher = start(load("demo")), start_matcher(load_matcher(matcher_name))
    info = await generator.info()
    found = []
    for index in range(count):
        image, scene = draw_scene((CALIBRATION_SEED, index))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        pixels = images.read(buffer.getvalue(), Limits(), info)
        candidates, later = await candidates_of(generator, pixels)
        texts = [*(candidate.text for candidate in candidates), *later]
        clauses = dict.fromkeys(phrase.text for text in texts for phrase in split(text) if not phrase.leans)
        labels = {clause: truth for clause in clauses if (truth := is_true(scene, clause)) is not None}
        agreement = Agreement(tuple(candidates))
        matches = await matcher.match(pixels, list(labels)) if labels else []
        for (clause, truth), match in zip(labels.items(), matches, strict=True):
            found.append(Labelled(clause, match.probability, agreement.features(clause), truth))
        if (index + 1) % 50 == 0:
            print(f"{index + 1} scenes, {len(found)} clauses", file=sys.stderr, flush=True)
    generator.close()
    matcher.close()
    return found


def floor_of(scores: np.ndarray, true: np.ndarray, wrong: float) -> dict[str, float]:
    """The lowest score from which on at most `wrong` of the clauses are false, and the share of true ones that pass."""
    order = np.argsort(-scores)
    false = np.cumsum(~true[order])
    share = false / np.arange(1, len(scores) + 1)
    fit = np.flatnonzero((share <= wrong) & (np.arange(len(scores)) >= MIN_PASSING))
    last = int(fit[-1]) if len(fit) else 0
    floor = float(scores[order[last]])
    passing = scores >= floor
    return {
        "floor": round(floor, 3),
        "true that pass": round(float(true[passing].sum() / max(1, true.sum())), 4),
        "false of those that pass": round(float((~true[passing]).mean()), 4),
    }


def logistic(features: np.ndarray, true: np.ndarray, steps: int = 50, ridge: float = 1e-3) -> np.ndarray:
    """Weights of a logistic regression by Newton's method; the first is the bias."""
    x = np.column_stack([np.ones(len(features)), features])
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + ridge * np.eye(x.shape[1])
        weights += np.linalg.solve(hessian, x.T @ (true - p) - ridge * weights)
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--matcher", default="demo")
    parser.add_argument("--wrong", type=float, default=0.005, help="share of false clauses among those that pass")
    args = parser.parse_args()
    found = asyncio.run(label(args.scenes, args.matcher))
    true = np.array([clause.true for clause in found])
    features = np.array([clause.features for clause in found])
    scores = np.clip([clause.score for clause in found], LEAST, 1 - LEAST)
    matched = np.column_stack([np.log(scores / (1 - scores)), features])
    report: dict[str, Any] = {"clauses": len(found), "true": round(float(true.mean()), 4)}
    for name, columns, inputs in (("matcher", ("match", *FEATURES), matched), ("agreement", FEATURES, features)):
        weights = logistic(inputs, true)
        fitted = 1 / (1 + np.exp(-(weights[0] + inputs @ weights[1:])))
        report[name] = {
            "weights": dict(zip(("bias", *columns), weights.round(2).tolist(), strict=True)),
            **floor_of(fitted, true, args.wrong),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
