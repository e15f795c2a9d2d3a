"""Captions made of what real captioners wrote of real photographs, where such texts are at hand.

The texts are other people's and no part of this project. `CAPTION_SERVE_REAL_TEXTS` names a folder with `measure.py`,
which prints its figures as a line of JSON; `shared/real_texts` beside the checkout is looked at too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = Path(os.environ.get("CAPTION_SERVE_REAL_TEXTS") or ROOT.parent / "shared" / "real_texts")


@pytest.fixture(scope="module")
def measured() -> Any:
    if not (TEXTS / "measure.py").is_file():
        pytest.skip("No real texts are at hand; CAPTION_SERVE_REAL_TEXTS names a folder with measure.py")
    done = subprocess.run(
        [sys.executable, str(TEXTS / "measure.py"), "--json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


GROUNDED = [f"{kind} · grounded {matcher}" for kind in ("coco", "web") for matcher in ("none", "yes", "refs")]


@pytest.mark.parametrize("row", GROUNDED)
def test_captions_are_whole_said_once_and_sourced(measured: Any, row: str) -> None:
    found = measured["groups"][row]
    assert found["faulty"] <= 0.06
    assert found["stub"] <= (0.01 if row.startswith("coco") else 0.03)
    assert found["agreed"] >= 0.96
    assert found["sourced"] >= 0.97


def test_captions_say_what_people_say(measured: Any) -> None:
    alone, matched = measured["groups"]["coco · grounded none"], measured["groups"]["coco · grounded refs"]
    assert alone["precision"] >= 0.80
    assert alone["recall"] >= 0.55
    assert matched["precision"] >= 0.86
    assert matched["recall"] >= 0.59


@pytest.mark.parametrize("row", GROUNDED)
def test_of_two_words_that_exclude_each_other_one_is_said_at_most(measured: Any, row: str) -> None:
    found = measured["swapped"][row]
    assert found["both"] <= (0.10 if row.endswith("yes") else 0.03)
    assert found["swapped"] <= 0.02


def test_tidy_classic_is_sound(measured: Any) -> None:
    assert all(measured["groups"][f"{kind} · classic"]["faulty"] <= 0.05 for kind in ("coco", "web"))


def test_single_captions_are_taken_apart_and_lose_nothing(measured: Any) -> None:
    for found in measured["singles"].values():
        assert found["undivided"] <= 0.15
        assert found["unclaimed"] <= 0.02
        assert found["lost"] <= 0.005
