"""Scenes of known content: a few kinds of things on a background.

`lab.composers` draws them and says where things lie. What is where and how large is read off the boxes (`told`), so
a scene that was moved or framed is told anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lab.sprites import Box

SIZE = 160
"""Side in pixels at which the models see a scene."""

TRAIN_SEED, HELD_OUT_SEED, CALIBRATION_SEED = 1, 2, 3
"""First part of a scene's seed, `(stream, index)`: the streams never meet."""

CELLS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
"""In reading order."""
_LEFT, _RIGHT = 0.42, 0.58
"""Where the middle of a picture begins and ends."""
LARGE = 0.345
"""Longest side from which on a thing is large."""
APART = 0.2
"""Least distance of two groups of which one lies beside, above or below the other."""


@dataclass(frozen=True, slots=True)
class Group:
    """All things of one kind in a scene."""

    noun: str
    count: int
    size: str
    """"large" or "small"."""
    cell: str
    """One of `CELLS`."""
    boxes: tuple[Box, ...]
    color: str = ""
    """Of plain shapes."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be seen. `groups`: large before small, then in reading order; no kind appears twice.

    `on`: (noun, noun) of a thing that stands on another one. Without groups, nothing is to be seen that has a word.
    """

    background: int
    groups: tuple[Group, ...]
    on: tuple[tuple[str, str], ...] = ()

    @property
    def nouns(self) -> set[str]:
        return {group.noun for group in self.groups}

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Scene:
        groups = (Group(**{**group, "boxes": tuple(map(tuple, group["boxes"]))}) for group in data["groups"])
        return cls(data["background"], tuple(groups), tuple(map(tuple, data.get("on", ()))))


def reading_order(group: Group) -> int:
    """Row by row, left to right."""
    return CELLS.index(group.cell)


def _seen(box: Box) -> Box:
    left, top, right, bottom = (min(1.0, max(0.0, edge)) for edge in box)
    return left, top, right, bottom


def middle(boxes: Sequence[Box]) -> tuple[float, float]:
    """The mean of the boxes' middles, of what is inside the picture."""
    seen = [_seen(box) for box in boxes]
    return (
        sum(left + right for left, _, right, _ in seen) / (2 * len(seen)),
        sum(top + bottom for _, top, _, bottom in seen) / (2 * len(seen)),
    )


def visible(box: Box) -> float:
    """Share of a box that is inside the picture."""
    left, top, right, bottom = _seen(box)
    return max(0.0, right - left) * max(0.0, bottom - top) / ((box[2] - box[0]) * (box[3] - box[1]))


def cell_at(x: float, y: float) -> str:
    column = "left" if x < _LEFT else "right" if x > _RIGHT else ""
    row = "top" if y < _LEFT else "bottom" if y > _RIGHT else ""
    return f"{row} {column}".strip() or "center"


def size_of(boxes: Sequence[Box]) -> str:
    sides = [max(right - left, bottom - top) for left, top, right, bottom in boxes]
    return "large" if sum(sides) / len(sides) >= LARGE else "small"


def ordered(groups: Sequence[Group]) -> tuple[Group, ...]:
    return tuple(sorted(groups, key=lambda group: (group.size != "large", reading_order(group))))


def told(scene: Scene, boxes: Sequence[Sequence[Box]]) -> Scene:
    """The scene with its groups at other boxes, in the order of the groups."""
    groups = [
        replace(group, size=size_of(own), cell=cell_at(*middle(own)), boxes=tuple(own))
        for group, own in zip(scene.groups, boxes, strict=True)
    ]
    return replace(scene, groups=ordered(groups))


def relation(scene: Scene, first: Group, second: Group) -> str:
    """ "on", "to the left of", "to the right of", "above" or "below": where `first` is, seen from `second`.

    Empty where the two lie askew or too near each other for one of these words.
    """
    if (first.noun, second.noun) in scene.on:
        return "on"
    (x, y), (other_x, other_y) = middle(first.boxes), middle(second.boxes)
    across, down = x - other_x, y - other_y
    if (second.noun, first.noun) in scene.on or max(abs(across), abs(down)) < APART:
        return ""
    if abs(across) > 1.6 * abs(down):
        return "to the left of" if across < 0 else "to the right of"
    if abs(down) > 1.6 * abs(across):
        return "above" if down < 0 else "below"
    return ""


def relations(scene: Scene) -> list[tuple[Group, str, Group]]:
    """Every pair of groups of which one stands in a `relation` to the other, in both directions."""
    pairs = ((first, second) for first in scene.groups for second in scene.groups if first is not second)
    return [(first, where, second) for first, second in pairs if (where := relation(scene, first, second))]
