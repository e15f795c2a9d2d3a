"""Weights and floors of the grounded strategy from labelled statements: `python -m lab.calibrate`.

    python -m lab.calibrate                                              # on scenes, for the embedded models
    python -m lab.calibrate --beside demo-vit                            # weights for both captioners together
    python -m lab.calibrate --model Salesforce/blip-image-captioning-large --matcher Salesforce/blip-itm-base-coco \\
        --images DIR --annotations captions.json                          # on your own images, captions as COCO's

Images are captioned; every statement of every variant, extension and round is true or false. Of a scene (of a stream
that neither training nor evaluation draws) `lab.facts` knows which. Of an image with captions by people a statement
counts as true when people said every word of it, else as false; that errs where people left out what is there, the
same for all statements, so that agreement and match score still weigh rightly against each other. Two logistic
regressions are fitted, with the matcher's score and without it, and with an answerer one for what it says and one for
what it says when a statement is asked back; a floor is the lowest support from which on at most `--wrong` of the
statements that pass are false. The figures are printed as they stand in
`serve_app/pipeline/support.toml`, under the names of the models.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from lab import coco
from lab.composers import draw
from lab.facts import claims
from lab.objects import nouns_in
from lab.scenes import CALIBRATION_SEED, Scene
from lab.tasks import auc
from serve_app.args import matcher_for
from serve_app.engine import load_answerer, load_matcher, open_captioner, start_answerer, start_matcher
from serve_app.limits import Limits
from serve_app.pipeline.asking import DOUBTFUL, FLOOR
from serve_app.pipeline.clean import clean
from serve_app.pipeline.grounded import SEQUENCES
from serve_app.pipeline.language.kinds import content, kinds_of
from serve_app.pipeline.language.noise import denoise, says_nothing
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.language.reading import Statement
from serve_app.pipeline.language.tokens import tokens
from serve_app.pipeline.presets import EXTENSION_PROMPTS, ROUND_PROMPT, VARIANT_PROMPTS, Presets
from serve_app.pipeline.questions import asked_back, questions_about, yes
from serve_app.pipeline.refine import added, fill
from serve_app.pipeline.scores import FEATURES, LEAST, Agreement, Candidate, Support, Weights, per_token, support
from serve_app.service import images
from serve_app.task_types import Answerer
from serve_app.types import Generated, GenerateJob, Generator, Pixels, Source

MIN_PASSING = 50
"""Statements that must lie above a floor for its share of false ones to mean something."""
MARGIN = 0.5
FOLDS = 5
SUPPORT = Path(str(files("serve_app.pipeline") / "support.toml"))

Truth = Callable[[Statement], bool | None]
"""Whether a statement is true; None for one that claims nothing that can be checked."""


@dataclass(frozen=True)
class Labelled:
    """A statement with its score by the matcher, its features without one, and whether it is true."""

    kind: str
    score: float
    features: tuple[float, float, float, float]
    true: bool
    answer: float | None = None
    """Probability of the answer that made it, if one did."""
    yes: float | None = None
    """Probability of "yes" to the statement asked back, if it was."""


def of_scene(scene: Scene) -> Truth:
    def truth(statement: Statement) -> bool | None:
        named, claimed = nouns_in(statement.text), claims(statement.text)
        if not named and not claimed:
            return None
        return named <= scene.nouns and all(claim.holds(scene) for claim in claimed)

    return truth


def of_captions(captions: list[str]) -> Truth:
    """True when people said all of it, themselves or by a more exact name."""
    said = frozenset().union(*(content(word.lower() for word in tokens(caption)) for caption in captions))
    known = said.union(*map(kinds_of, said))

    def truth(statement: Statement) -> bool | None:
        return statement.words <= known if statement.words else None

    return truth


def scenes(count: int) -> Iterator[tuple[bytes, Truth]]:
    for index in range(count):
        image, scene = draw((CALIBRATION_SEED, index))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield buffer.getvalue(), of_scene(scene)


def annotated(directory: Path, annotations: Path, count: int) -> Iterator[tuple[bytes, Truth]]:
    for image in coco.read(annotations, None)[:count]:
        if image.captions:
            yield (directory / image.file).read_bytes(), of_captions(image.captions)


async def candidates_of(
    generator: Generator, pixels: Pixels, captioner: str | None = None, before: int = 0
) -> tuple[list[Candidate], list[str]]:
    """The candidates of the variants, and what extensions and a round say beyond the longest of them.

    `captioner` is its name if there are several, and `before` how many variants those before it have."""
    info = await generator.info()
    asked = info.prompts or VARIANT_PROMPTS
    presets = Presets()
    several = replace(presets.variant, num_return_sequences=SEQUENCES)
    outcomes = await generator.generate(pixels, [GenerateJob(prompt, several, 1) for prompt in asked])
    found = [
        Candidate(read(text), Source("variant", number, captioner), number, per_token(one, several))
        for number, outcome in enumerate(outcomes, start=before + 1)
        if isinstance(outcome, Generated)
        for one in (outcome, *outcome.alternatives)
        if (text := denoise(clean(one.text, openings=())))
    ]
    longest = max((candidate.text for candidate in found if not says_nothing(candidate.text)), key=len, default="")
    if not info.continues:
        return found, []
    prompts = [
        *((fill(prompt, longest), presets.extension) for prompt in EXTENSION_PROMPTS[:1]),
        (fill(ROUND_PROMPT, longest), presets.round),
    ]
    later = await generator.generate(pixels, [GenerateJob(*pair, 1) for pair in prompts])
    return found, [denoise(added(longest, clean(one.text))) for one in later if isinstance(one, Generated)]


async def asked_of(answerer: Answerer, pixels: Pixels, caption: str) -> dict[Statement, float]:
    """The statements that answers to all questions about a caption make, with the answers' probabilities."""
    questions = questions_about(read(caption))
    if not questions:
        return {}
    answers = await answerer.answers(pixels, [question.text for question in questions])
    return {
        statement: answer.probability
        for question, answer in zip(questions, answers, strict=True)
        if answer.probability >= FLOOR and (text := question.statement(answer.text)) is not None
        for statement in read(text).statements
    }


async def asked_back_of(answerer: Answerer | None, pixels: Pixels, statements: Iterable[str]) -> dict[str, float]:
    """The probability of "yes" for each statement that can be asked back."""
    questions = {text: question for text in statements if (question := asked_back(text))}
    if answerer is None or not questions:
        return {}
    answers = await answerer.answers(pixels, list(questions.values()))
    found = {text: yes(answer.text, answer.probability) for text, answer in zip(questions, answers, strict=True)}
    return {text: probability for text, probability in found.items() if probability is not None}


async def label(
    models: Sequence[str], matcher_name: str, answerer_name: str | None, inputs: Iterator[tuple[bytes, Truth]]
) -> list[Labelled]:
    """The statements of a captioner, or of several."""
    generators, matcher = [open_captioner(model) for model in models], start_matcher(load_matcher(matcher_name))
    answerer = None if answerer_name is None else start_answerer(load_answerer(answerer_name))
    infos = [await generator.info() for generator in generators]
    found: list[Labelled] = []
    for number, (data, truth) in enumerate(inputs, start=1):
        picture = images.read_all(data, Limits(), {info.size for info in infos})
        pixels = picture[infos[0].size]
        candidates, later = [], []
        for name, generator, info in zip(models, generators, infos, strict=True):
            captioner = name if len(models) > 1 else None
            before = max((candidate.variant for candidate in candidates), default=0)
            said_first, said_later = await candidates_of(generator, picture[info.size], captioner, before)
            candidates += said_first
            later += said_later
        said = [candidate for candidate in candidates if not says_nothing(candidate.text)]
        readings = [*(candidate.reading for candidate in said), *map(read, later)]
        every = {statement.text: statement for reading in readings for statement in reading.statements}
        labels = {text: known for text, statement in every.items() if (known := truth(statement)) is not None}
        agreement = Agreement(tuple(candidates))
        matches = await matcher.match(pixels, list(labels)) if labels else []
        back = await asked_back_of(answerer, pixels, labels)
        for (text, true), match in zip(labels.items(), matches, strict=True):
            features = agreement.features(every[text])
            found.append(Labelled(every[text].kind, match.probability, features, true, yes=back.get(text)))
        if answerer is not None:
            longest = max((candidate.text for candidate in said), key=len, default="")
            asked = await asked_of(answerer, pixels, longest)
            new = {each: known for each in asked if each.text not in every and (known := truth(each)) is not None}
            matches = await matcher.match(pixels, [each.text for each in new]) if new else []
            for (statement, true), match in zip(new.items(), matches, strict=True):
                features = agreement.features(statement)
                found.append(Labelled(statement.kind, match.probability, features, true, asked[statement]))
        if number % 50 == 0:
            print(f"{number} images, {len(found)} statements", file=sys.stderr, flush=True)
    for model in (*generators, matcher, answerer):
        if model is not None:
            model.close()
    return found


def doubtful(found: list[Labelled], weights: Weights) -> list[Labelled]:
    """Those that a caption would ask back."""
    low, high = DOUBTFUL
    return [each for each in found if low < support(weights, each.score, each.features) < high]


def floor_of(scores: np.ndarray, true: np.ndarray, wrong: float) -> float:
    """The lowest score from which on at most `wrong` of the statements are false; 1 where there is none."""
    order = np.argsort(-scores)
    share = np.cumsum(~true[order]) / np.arange(1, len(scores) + 1)
    fit = np.flatnonzero((share <= wrong) & (np.arange(len(scores)) >= MIN_PASSING))
    return round(float(scores[order[int(fit[-1])]]), 2) if len(fit) else 1.0


def logistic(features: np.ndarray, true: np.ndarray, steps: int = 50, ridge: float = 1e-3) -> np.ndarray:
    """Weights of a logistic regression by Newton's method; the first is the bias."""
    x = np.column_stack([np.ones(len(features)), features])
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + ridge * np.eye(x.shape[1])
        weights += np.linalg.solve(hessian, x.T @ (true - p) - ridge * weights)
    return weights


def _inputs(found: list[Labelled], matched: bool, further: str) -> np.ndarray:
    """[statements, features]: the match score's odds (0 unless `matched`), agreement, and the odds of `further`."""
    scores = np.clip([each.score for each in found], LEAST, 1 - LEAST)
    odds = np.log(scores / (1 - scores))[:, None] * float(matched)
    inputs = np.column_stack([odds, np.array([each.features for each in found])])
    if further:
        answers = np.clip([getattr(each, further) for each in found], LEAST, 1 - LEAST)
        inputs = np.column_stack([inputs, np.log(answers / (1 - answers))])
    return inputs


def folded_auc(found: list[Labelled], further: str = "") -> float:
    """Area under the ROC curve of support, each fold of neighbouring statements by weights of the others."""
    true, inputs = np.array([each.true for each in found]), _inputs(found, True, further)
    support = np.zeros(len(found))
    for fold in np.array_split(np.arange(len(found)), FOLDS):
        others = np.setdiff1d(np.arange(len(found)), fold)
        weights = logistic(inputs[others], true[others])
        support[fold] = weights[0] + inputs[fold] @ weights[1:]
    return round(auc(support[true], support[~true]), 4)


def block(name: str, found: list[Labelled], matched: bool, wrong: float, further: str = "") -> str:
    """The fitted weights and floors as a table of `support.toml`; `further` names a feature beside the usual ones."""
    true = np.array([each.true for each in found])
    inputs = _inputs(found, matched, further)
    weights = logistic(inputs if matched else inputs[:, 1:], true)
    values = [weights[0], *(weights[1:] if matched else (0.0, *weights[1:]))]
    names = ("bias", *FEATURES, *((further,) if further else ()))
    fitted = 1 / (1 + np.exp(-(values[0] + inputs @ np.array(values[1:]))))
    things = np.array([each.kind == "thing" for each in found])
    floors = {
        "thing": floor_of(fitted[things], true[things], wrong),
        "fact": floor_of(fitted[~things], true[~things], wrong),
    }
    lines = [f"[{name}]", *(f"{key} = {value:.2f}" for key, value in zip(names, values, strict=True))]
    lines += [f"{key} = {value}" for key, value in floors.items()]
    return "\n".join([*lines, f"keep = {floors['thing']}", f"margin = {MARGIN}"])


def _key(name: str) -> str:
    """A name as a key of TOML."""
    return name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)


def replaced(support: str, blocks: Iterable[str]) -> str:
    """The text of `support.toml` with those tables in the place of the ones of the same names, or at its end."""
    for each in blocks:
        head = each.split("\n", 1)[0]
        table = re.compile(rf"^{re.escape(head)}.*?(?=\n\n|\n*\Z)", re.DOTALL | re.MULTILINE)
        known = table.search(support)
        new = each.replace(head, f"{head}  # `python -m lab.calibrate`", 1)
        support = (
            f"{support[: known.start()]}{new}{support[known.end() :]}" if known else f"{support.rstrip()}\n\n{new}\n"
        )
    return support


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="captioner: demo, a directory or a hub id")
    parser.add_argument("--beside", help="the same, for a second captioner: weights for what both say together")
    parser.add_argument("--matcher", default="demo", help="the same, for the matcher")
    parser.add_argument("--answerer", help="the same; none leaves questions out (default: demo with --model demo)")
    parser.add_argument("--scenes", type=int, default=300, help="scenes, or most images of --images")
    parser.add_argument("--images", type=Path, help="directory of images that the annotations name")
    parser.add_argument("--annotations", type=Path, help="captions by people in COCO's format")
    parser.add_argument("--write", action="store_true", help="put the figures into support.toml, too")
    parser.add_argument("--wrong", type=float, default=0.01, help="share of false statements among those that pass")
    args = parser.parse_args()
    if (args.images is None) != (args.annotations is None):
        parser.error("--images and --annotations go together")
    inputs = annotated(args.images, args.annotations, args.scenes) if args.images else scenes(args.scenes)
    models = [args.model, args.beside] if args.beside else [args.model]
    answerer = None if args.beside else matcher_for([args.model], args.answerer)
    every = asyncio.run(label(models, args.matcher, answerer, inputs))
    found = [each for each in every if each.answer is None]
    asked = [each for each in every if each.answer is not None]
    back = doubtful([each for each in every if each.yes is not None], Support.of(args.matcher).matched)
    if not found or all(each.true for each in found) or not any(each.true for each in found):
        sys.exit("There are no statements both true and false to fit to.")
    several = ".several" if args.beside else ""
    blocks = [
        block(f"{_key(args.matcher)}{several}.matched", found, True, args.wrong),
        block(f"{_key(args.model)}{several}.alone", found, False, args.wrong),
    ]
    if asked:
        blocks.append(block(f"{_key(args.matcher)}.answered", asked, True, args.wrong, "answer"))
    if back:
        blocks.append(block(f"{_key(args.matcher)}.confirmed", back, True, args.wrong, "yes"))
    print("\n\n".join(blocks), end="\n\n")
    if args.write:
        SUPPORT.write_text(replaced(SUPPORT.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    report: dict[str, dict[str, float]] = {
        name: {"statements": len(some), "true": round(sum(each.true for each in some) / max(1, len(some)), 4)}
        for name, some in (("said", found), ("answered", asked), ("asked back", back))
    }
    if len({each.true for each in back}) > 1:
        report["asked back"] |= {"auc without": folded_auc(back), "auc": folded_auc(back, "yes")}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
