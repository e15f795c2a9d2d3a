"""Trains the embedded models one after the other, from one seed: `python -m lab.train_all`.

    python -m lab.train_all                          # about five hours on two cores
    python -m lab.train_all --most-steps 5           # the first steps of the first model only, the same each time
    python -m lab.train_all --only answerer          # one of the models, from the others as they are in --work

Captioner, matcher and answerer each begin with what the one before has learned; the second captioner, for a committee
with the first, begins anew. A run that was cut off goes on with its
last checkpoint in `--work`. When all are done they are copied to `--out`, with their losses (`training.json`), the gate
is fitted to them (`lab.calibrate`), and they are measured (`lab.evaluate`). The same seed and number of threads
give the same weights on the same kind of machine.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from lab import train, train_answerer, train_matcher, train_second
from lab.fit import Course

DIRECTORIES = {"captioner": "demo", "matcher": "demo-matcher", "answerer": "demo-answerer", "second": "demo-vit"}
"""Model → its folder among the models that are shipped."""
LEARNING_RATES = {"captioner": 1e-3, "matcher": 6e-4, "answerer": 6e-4, "second": 1e-3}
PARENTS = {"captioner": (), "matcher": ("captioner",), "answerer": ("captioner", "matcher"), "second": ()}
"""Model → those whose weights it begins with."""
MEASURING = (
    ("lab.calibrate", "--write"),
    ("lab.evaluate", "--scenes", "500"),
    ("lab.evaluate", "--scenes", "500", "--world", "unseen"),
    ("lab.evaluate", "--questions"),
    ("lab.evaluate", "--questions", "--world", "unseen"),
    ("lab.evaluate", "--photographs"),
)
"""What is run when all models are there; they measure the shipped ones."""
VISION_STEPS, CAPTION_STEPS, MATCHER_STEPS, ANSWERER_STEPS = 2500, 4500, 3000, 2600
SECOND_VISION_STEPS, SECOND_CAPTION_STEPS = 2000, 3000


def trainers(work: Path, seed: int) -> dict[str, Callable[[Course], bool]]:
    """Model → what trains it and returns whether the run reached its end."""
    at = {model: work / folder for model, folder in DIRECTORIES.items()}
    return {
        "captioner": lambda course: train.train(at["captioner"], course, seed, VISION_STEPS, CAPTION_STEPS),
        "matcher": lambda course: train_matcher.train(at["matcher"], course, seed, at["captioner"], MATCHER_STEPS),
        "answerer": lambda course: train_answerer.train(
            at["answerer"], course, seed, at["captioner"], at["matcher"], ANSWERER_STEPS
        ),
        "second": lambda course: train_second.train(
            at["second"], course, seed, SECOND_VISION_STEPS, SECOND_CAPTION_STEPS
        ),
    }


def run_of(model: str, work: Path, seed: int, bf16: bool) -> str:
    """What a run depends on: its seed and length, and the weights that it begins with."""
    weights = [digest(work / DIRECTORIES[parent] / "model.safetensors") for parent in PARENTS[model]]
    steps: tuple[int, ...] = (VISION_STEPS, CAPTION_STEPS, MATCHER_STEPS, ANSWERER_STEPS)
    if model == "second":
        steps = (SECOND_VISION_STEPS, SECOND_CAPTION_STEPS)
    return " ".join(map(str, (seed, bf16, *steps, *weights)))


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def ship(work: Path, out: Path) -> None:
    """Copies the models to `out`; a model card there stays as it is."""
    for folder in DIRECTORIES.values():
        shutil.copytree(work / folder, out / folder, dirs_exist_ok=True)
        weights = out / folder / "model.safetensors"
        print(f"{digest(weights)}  {weights}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("serve_app/models"))
    parser.add_argument(
        "--work", type=Path, default=Path("build/training"), help="checkpoints, and models in the making"
    )
    parser.add_argument("--only", choices=list(DIRECTORIES), help="this model alone; nothing is copied to --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-steps", type=int, help="stop the first model that is not done after so many steps")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True, help="autocast")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for model, trainer in trainers(args.work, args.seed).items():
        if args.only not in (None, model):
            continue
        state = args.work / "state" / model
        run = run_of(model, args.work, args.seed, args.bf16)
        course = Course(LEARNING_RATES[model], state, args.bf16, run=run, most_steps=args.most_steps)
        print(f"{model}:", flush=True)
        if not trainer(course):
            sys.exit(f"The {model} is not done; the next run goes on with {state}.")
    if args.only is None:
        ship(args.work, args.out)
        for command in MEASURING:
            print(" ".join(command), flush=True)
            subprocess.run([sys.executable, "-m", *command], check=True)


if __name__ == "__main__":
    main()
