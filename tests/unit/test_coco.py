"""Measures on annotations in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab import coco
from lab.coco_objects import CATEGORIES


def test_all_eighty_categories_are_there_and_no_name_means_two() -> None:
    assert len([name for name in CATEGORIES if name]) == 80
    names = [phrase for name, phrases in CATEGORIES.items() for phrase in {name, *phrases} if phrase]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("Two men and a puppy eat a hot dog.", ["person", "dog", "hot dog"]),
        ("A teddy bear on a sofa", ["teddy bear", "couch"]),
        ("People at a baseball game beside the train tracks", ["person"]),
        ("Two giraffes, geese and calves", ["giraffe", "bird", "cow"]),
        ("knives, buses and mice", ["knife", "bus", "mouse"]),
        ("a shiny thing", []),
    ],
)
def test_objects_in(text: str, objects: list[str]) -> None:
    assert coco.objects_in(text) == objects


@pytest.fixture
def annotated(tmp_path: Path) -> list[coco.Annotated]:
    captions = {
        "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 3, "caption": "A cat sits on a mat."},
            {"image_id": 3, "caption": "A cat on a small mat."},
            {"image_id": 7, "caption": "Two buses on a street."},
        ],
    }
    instances = {
        "categories": [{"id": 1, "name": "couch"}],
        "annotations": [{"image_id": 3, "category_id": 1}, {"image_id": 99, "category_id": 1}],
    }
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    return coco.read(tmp_path / "captions.json", tmp_path / "instances.json")


def test_objects_come_from_instances_and_references(annotated: list[coco.Annotated]) -> None:
    assert [(image.file, image.objects) for image in annotated] == [("a.jpg", {"cat", "couch"}), ("b.jpg", {"bus"})]


def test_chair_counts_mentions_that_are_not_there(annotated: list[coco.Annotated]) -> None:
    found = coco.chair(["A cat and a dog on a sofa", "A bus"], annotated)
    assert found == {"chair_i": 0.25, "chair_s": 0.5, "object_recall": 1.0}
    assert coco.chair(["nothing", "nothing"], annotated)["chair_i"] == 0.0


def test_a_reference_itself_scores_highest(annotated: list[coco.Annotated]) -> None:
    right = coco.overlap(["A cat sits on a mat.", "Two buses on a street."], annotated)
    assert right["bleu_4"] == 100.0
    wrong = coco.overlap(["Nothing of the kind at all", "Nor here, not a bit"], annotated)
    assert wrong["bleu_1"] < 20 < right["chrf"]
