"""Where the things of a scene lie: composers of several kinds, each a way in which pictures are made.

Training draws from `TRAINING`; `HELD_OUT` are ways that it never sees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from lab.backgrounds import BACKGROUNDS, NAMED, PLAIN, UNNAMED
from lab.objects import COLORS, DRAWN, SHAPES, UNKNOWN, Kind
from lab.scenes import CELLS, LARGE, Group, Scene, cell_at, middle, ordered, size_of
from lab.sprites import Box, glyph, paste, sprite

GRID_SIZE = 128
"""Side in pixels of a picture of the grid."""
_UNCERTAIN = 0.035
"""Things keep this distance of the lines between places, and of the size that parts small from large."""
_LINES = (0.42, 0.58)


@dataclass
class Stage:
    """A picture in the making and what is on it so far."""

    rng: np.random.Generator
    image: Image.Image
    background: int
    groups: list[Group] = field(default_factory=list)
    on: list[tuple[str, str]] = field(default_factory=list)

    def choose(self, amount: int) -> list[Kind]:
        """Kinds that are not there yet; one of ten is a plain shape."""
        taken = {group.noun for group in self.groups}
        chosen: list[Kind] = []
        while len(chosen) < amount:
            pool = SHAPES if self.rng.random() < 0.1 else DRAWN
            kind = pool[int(self.rng.integers(len(pool)))]
            if kind.noun not in taken:
                taken.add(kind.noun)
                chosen.append(kind)
        return chosen

    def _color(self, x: float, y: float) -> str:
        """A color that can be told from what is at that place."""
        width, height = self.image.size
        column, row = (int(np.clip(v * side, 0, side - 1)) for v, side in ((x, width), (y, height)))
        box = (max(0, column - 8), max(0, row - 8), min(width, column + 8), min(height, row + 8))
        around = np.asarray(self.image.crop(box).convert("RGB"), float)
        names = [name for name, rgb in COLORS.items() if np.abs(around.mean((0, 1)) - rgb).sum() > 150]
        return names[int(self.rng.integers(len(names)))]

    def put(self, kind: Kind, spots: Sequence[tuple[float, float]], side: float, cut: bool = False) -> Group:
        """Pastes a thing of that kind at each spot, (x, y) of its middle in shares of the picture's side."""
        color = "" if kind.glyph else self._color(*spots[0])
        scale = self.image.width
        picture = sprite(kind, color)
        boxes = tuple(paste(self.image, picture, self.rng, side * scale, x * scale, y * scale, cut) for x, y in spots)
        group = Group(kind.noun, len(boxes), size_of(boxes), cell_at(*middle(boxes)), boxes, color)
        self.groups.append(group)
        return group

    def scene(self) -> Scene:
        return Scene(self.background, ordered(self.groups), tuple(self.on))


Composer = Callable[[Stage], None]


def side_between(rng: np.random.Generator, low: float, high: float) -> float:
    """Uniform in the logarithm; never so near `LARGE` that small and large could be confused."""
    while True:
        side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        if abs(side - LARGE) > _UNCERTAIN:
            return side


def _clear(x: float, y: float) -> bool:
    return all(abs(v - line) > _UNCERTAIN for v in (x, y) for line in _LINES)


def _overlap(one: Box, other: Box) -> float:
    """What two boxes share, as a share of the smaller."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    tall = min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    area = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return wide * tall / area


def _around(x: float, y: float, side: float) -> Box:
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def _layout(rng: np.random.Generator, count: int, side: float) -> np.ndarray:
    """[count, 2] offsets of things of one kind that stand beside each other."""
    step = side * 1.08
    if count == 1:
        return np.zeros((1, 2))
    roll = rng.random()
    if roll < 0.3 and count * step < 0.95:
        spots = np.column_stack([np.arange(count) * step, np.zeros(count)])
    elif roll < 0.5 and count * step < 0.95:
        spots = np.column_stack([np.zeros(count), np.arange(count) * step])
    else:
        columns = 2 if count <= 4 else 3
        spots = np.array([(i % columns, i // columns) for i in range(count)]) * step
        spots = spots + (np.arange(count) // columns % 2)[:, None] * (step * rng.uniform(0, 0.5), 0)
    spots = spots + rng.uniform(-0.06, 0.06, spots.shape) * side
    return spots - spots.mean(0)


def _count(rng: np.random.Generator) -> int:
    return int(rng.choice(6, p=(0.62, 0.14, 0.1, 0.06, 0.04, 0.04))) + 1


def _scattered(stage: Stage, amount: int, overlap: float, low: float = 0.11, high: float = 0.6) -> None:
    """Up to `amount` more kinds anywhere, two things sharing at most `overlap` of the smaller."""
    rng = stage.rng
    high = min(high, (0.85, 0.6, 0.48, 0.42)[min(3, len(stage.groups) + amount - 1)])
    for kind in stage.choose(amount):
        for _ in range(30):
            count = _count(rng)
            side = side_between(rng, low, high if count == 1 else min(high, 0.42 / count**0.55))
            offsets = _layout(rng, count, side)
            reach = np.abs(offsets).max(0) + side / 2
            if (reach > 0.5).any():
                continue
            x, y = rng.uniform(reach, 1 - reach)
            spots = [(float(x + dx), float(y + dy)) for dx, dy in offsets]
            boxes = [_around(*spot, side) for spot in spots]
            taken = [box for group in stage.groups for box in group.boxes]
            if _clear(x, y) and all(_overlap(box, other) <= overlap for box in boxes for other in taken):
                stage.put(kind, spots, side)
                break
        high *= 0.9


def _amount(rng: np.random.Generator) -> int:
    return int(rng.choice(4, p=(0.2, 0.3, 0.3, 0.2))) + 1


def free(stage: Stage) -> None:
    """Anywhere, nothing over anything."""
    _scattered(stage, _amount(stage.rng), 0.0)


def overlapping(stage: Stage) -> None:
    """Anywhere, up to a third of a thing hidden by another one."""
    _scattered(stage, max(2, _amount(stage.rng)), 0.33, low=0.14)


def rows(stage: Stage) -> None:
    """Two to six of a kind side by side, and other things above or below."""
    rng = stage.rng
    count = int(rng.integers(2, 7))
    side = side_between(rng, 0.11, min(0.3, 0.9 / count / 1.06))
    step = side * rng.uniform(1.02, max(1.03, min(1.5, 0.95 / count / side)))
    wide = (count - 1) * step + side
    while True:
        x, y = rng.uniform(wide / 2, 1 - wide / 2), rng.uniform(side / 2, 1 - side / 2)
        if _clear(x, y):
            break
    spots = [(float(x + (i - (count - 1) / 2) * step), float(y + rng.normal(0, 0.01))) for i in range(count)]
    stage.put(stage.choose(1)[0], spots, side)
    _scattered(stage, int(rng.integers(0, 3)), 0.0, high=0.4)


def piles(stage: Stage) -> None:
    """Three to six of a kind in a heap, and other things beside it."""
    rng = stage.rng
    count = int(rng.integers(3, 7))
    side = side_between(rng, 0.14, 0.27)
    spots: list[tuple[float, float]] = []
    spread = side * count**0.5 * 0.55
    for _ in range(400):
        x, y = rng.normal(0, spread, 2)
        box = _around(x, y, side)
        if len(spots) < count and all(_overlap(box, _around(*spot, side)) <= 0.33 for spot in spots):
            spots.append((float(x), float(y)))
    offsets = np.array(spots) - np.mean(spots, 0)
    reach = np.minimum(np.abs(offsets).max(0) + side / 2, 0.5)
    for _ in range(50):
        x, y = rng.uniform(reach, 1 - reach)
        if _clear(x, y):
            break
    stage.put(stage.choose(1)[0], [(float(x + dx), float(y + dy)) for dx, dy in offsets], side)
    _scattered(stage, int(rng.integers(0, 3)), 0.0, high=0.4)


def large(stage: Stage) -> None:
    """One thing that fills the picture, sometimes with a small one before it."""
    rng = stage.rng
    side = side_between(rng, 0.62, 0.95)
    stage.put(stage.choose(1)[0], [(0.5 + rng.uniform(-0.06, 0.06), 0.5 + rng.uniform(-0.06, 0.06))], side)
    if rng.random() < 0.4:
        x, y = (float(rng.choice((0.13, 0.87)) + rng.uniform(-0.03, 0.03)) for _ in range(2))
        stage.put(stage.choose(1)[0], [(x, y)], side_between(rng, 0.14, 0.24))


def cut(stage: Stage) -> None:
    """A thing of which an edge of the picture hides up to two fifths, and other things."""
    rng = stage.rng
    side = side_between(rng, 0.2, 0.6)
    beyond = side * (0.5 - rng.uniform(0.12, 0.4))
    while True:
        along = float(rng.uniform(side / 2, 1 - side / 2))
        x, y = ((beyond, along), (1 - beyond, along), (along, beyond), (along, 1 - beyond))[int(rng.integers(4))]
        if _clear(x, y):
            break
    stage.put(stage.choose(1)[0], [(x, y)], side, cut=True)
    _scattered(stage, int(rng.integers(0, 3)), 0.0, high=0.4)


def stacked(stage: Stage) -> None:
    """A thing that stands on another one, and other things."""
    rng = stage.rng
    side, upper = side_between(rng, 0.24, 0.48), side_between(rng, 0.15, 0.3)
    below, above = stage.choose(2)
    while True:
        x = float(rng.uniform(0.04 + side / 2, 0.96 - side / 2))
        y = float(rng.uniform(upper + side / 2, 1 - side / 2))
        if all(abs(x - line) > _UNCERTAIN for line in _LINES):
            break
    base = stage.put(below, [(x, y)], side).boxes[0]
    x = (base[0] + base[2]) / 2 + float(rng.uniform(-0.1, 0.1)) * (base[2] - base[0])
    # The middle is placed by a box that is as tall as the side; then the thing is let down onto the other one.
    picture = sprite(above, color := "" if above.glyph else stage._color(x, base[1]))
    tall = upper * picture.height / max(picture.size)
    box = paste(
        stage.image,
        picture,
        rng,
        upper * stage.image.width,
        x * stage.image.width,
        (base[1] - tall / 2 + 0.03) * stage.image.width,
    )
    stage.groups.append(Group(above.noun, 1, size_of([box]), cell_at(*middle([box])), (box,), color))
    if box[3] - base[1] < 0.1:
        stage.on.append((above.noun, below.noun))
    _scattered(stage, int(rng.integers(0, 2)), 0.0, high=0.3)


_GRID_CELLS = {"top left": (0, 0), "top right": (1, 0), "bottom left": (0, 1), "bottom right": (1, 1)}
_GRID_OFFSETS = {1: ((0.0, 0.0),), 2: ((-0.12, 0.03), (0.12, -0.03)), 3: ((-0.12, 0.1), (0.12, 0.1), (0.0, -0.11))}


def _grid_sides(rng: np.random.Generator, alone: bool, count: int) -> float:
    if count > 1:
        return float(rng.uniform(0.21, 0.25))
    if rng.random() < 0.5:
        return float(rng.uniform(0.23, 0.29))
    return float(rng.uniform(0.50, 0.68) if alone else rng.uniform(0.39, 0.48))


def grid(stage: Stage) -> None:
    """Up to three of a kind in each quarter, or one kind in the center."""
    rng = stage.rng
    amount = _amount(rng)
    chosen = [DRAWN[i] for i in rng.choice(len(DRAWN), amount, replace=False)]
    cells = [list(_GRID_CELLS)[i] for i in rng.choice(4, amount, replace=False)]
    if amount == 1 and rng.random() < 0.4:
        cells = ["center"]
    for kind, cell in zip(chosen, cells, strict=True):
        count = int(rng.choice((1, 2, 3), p=(0.7, 0.18, 0.12)))
        side = _grid_sides(rng, alone=cell == "center", count=count)
        column, row = _GRID_CELLS.get(cell, (0.5, 0.5))
        x, y = 0.25 + 0.5 * column, 0.25 + 0.5 * row
        slack = max(0.0, 0.24 - side / 2) * (0.7 if count == 1 else 0.2)
        x, y = x + float(rng.uniform(-slack, slack)), y + float(rng.uniform(-slack, slack))
        stage.put(kind, [(x + dx, y + dy) for dx, dy in _GRID_OFFSETS[count]], side)


def ring(stage: Stage) -> None:
    """Things on a circle around the middle."""
    rng = stage.rng
    amount = int(rng.integers(3, 5))
    radius, begin = rng.uniform(0.29, 0.34), rng.uniform(0, 2 * np.pi)
    for number, kind in enumerate(stage.choose(amount)):
        angle = begin + 2 * np.pi * number / amount + rng.uniform(-0.1, 0.1)
        x, y = 0.5 + radius * float(np.cos(angle)), 0.5 + radius * float(np.sin(angle))
        if _clear(x, y):
            stage.put(kind, [(x, y)], side_between(rng, 0.15, 0.3))
    if not stage.groups:
        _scattered(stage, 2, 0.0)


def diagonal(stage: Stage) -> None:
    """Things from one corner to the opposite one, growing or shrinking."""
    rng = stage.rng
    falls = rng.random() < 0.5
    sides = [side_between(rng, 0.14, 0.3) for _ in range(3)]
    sides.sort(reverse=rng.random() < 0.5)
    for at, side, kind in zip((0.2, 0.5, 0.8), sides, stage.choose(3), strict=True):
        x, y = at + rng.uniform(-0.02, 0.02), (at if falls else 1 - at) + rng.uniform(-0.02, 0.02)
        stage.put(kind, [(float(x), float(y))], side)


def columns(stage: Stage) -> None:
    """Two kinds in two columns, each one above the other."""
    rng = stage.rng
    for middle_x, kind in zip((0.25, 0.75), stage.choose(2), strict=True):
        count = int(rng.integers(1, 5))
        side = side_between(rng, 0.14, 0.21 if count > 1 else 0.3)
        step = side * 1.08
        y = 0.5 + float(rng.uniform(-0.03, 0.03))
        x = middle_x + float(rng.uniform(-0.06, 0.06))
        stage.put(kind, [(x, y + (i - (count - 1) / 2) * step) for i in range(count)], side)


def mosaic(stage: Stage) -> None:
    """Some of the nine places hold a thing each."""
    rng = stage.rng
    amount = int(rng.integers(2, 5))
    for cell, kind in zip(rng.choice(9, amount, replace=False), stage.choose(amount), strict=True):
        spot = (
            (0.2, 0.5, 0.8)[cell % 3] + rng.uniform(-0.03, 0.03),
            (0.2, 0.5, 0.8)[cell // 3] + rng.uniform(-0.03, 0.03),
        )
        stage.put(kind, [(float(spot[0]), float(spot[1]))], side_between(rng, 0.15, 0.3))


TRAINING: Mapping[Composer, float] = {
    grid: 0.2,
    free: 0.26,
    overlapping: 0.14,
    rows: 0.1,
    piles: 0.08,
    large: 0.07,
    cut: 0.08,
    stacked: 0.07,
}
"""How often training uses which composer."""
HELD_OUT: tuple[Composer, ...] = (ring, diagonal, columns, mosaic)
"""Composers that training never uses."""
NOTHING = 0.1
"""Share of training pictures that show nothing that has a word."""
_STRANGERS = 0.1
"""Share of pictures with things that have a word and one that has none."""


def draw_grid(seed: tuple[int, int]) -> tuple[Image.Image, Scene]:
    """A scene of the grid on a drawn background, GRID_SIZE × GRID_SIZE."""
    rng = np.random.default_rng(seed)
    background = int(rng.integers(len(NAMED)))
    stage = Stage(rng, NAMED[background].draw(rng, GRID_SIZE), background)
    grid(stage)
    return stage.image, stage.scene()


def _ground(rng: np.random.Generator, shares: tuple[float, float, float]) -> tuple[Image.Image, int]:
    """A background of one of the three kinds, drawn, plain or without words, at a size of its own."""
    number = (int(rng.integers(len(NAMED))), PLAIN, UNNAMED)[int(rng.choice(3, p=shares))]
    drawn = BACKGROUNDS[number].draw(rng, int(rng.integers(96, 193)))
    side = int(rng.integers(112, 225))
    return drawn.resize((side, side), Image.Resampling.BILINEAR), number


def draw_nothing(rng: np.random.Generator) -> tuple[Image.Image, Scene]:
    """A background with or without things that have no word."""
    image, background = _ground(rng, (0.12, 0.12, 0.76))
    for _ in range(int(rng.choice(5, p=(0.45, 0.2, 0.15, 0.1, 0.1)))):
        x, y = rng.uniform(0, 1, 2)
        _stranger(rng, image, side_between(rng, 0.12, 0.9), float(x), float(y))
    return image, Scene(background, ())


def _stranger(rng: np.random.Generator, image: Image.Image, side: float, x: float, y: float) -> None:
    picture = glyph(UNKNOWN[int(rng.integers(len(UNKNOWN)))])
    paste(image, picture, rng, *(image.width * v for v in (side, x, y)))


def _add_stranger(stage: Stage) -> None:
    """A thing without a word where it hides nothing, if there is room."""
    taken = [box for group in stage.groups for box in group.boxes]
    for _ in range(10):
        side = side_between(stage.rng, 0.12, 0.3)
        x, y = stage.rng.uniform(side / 2, 1 - side / 2, 2)
        if not any(_overlap(_around(x, y, side * 1.1), box) for box in taken):
            _stranger(stage.rng, stage.image, side, float(x), float(y))
            return


def draw(seed: tuple[int, int], nothing: float = NOTHING) -> tuple[Image.Image, Scene]:
    """Draws the training scene of `seed`, a pair (stream, index); `nothing` is the share of those that show nothing.

    Returns the RGB image, a square of its own size, and the truth. Raises `FontMissing`.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < nothing:
        return draw_nothing(rng)
    return _draw(rng, list(TRAINING)[int(rng.choice(len(TRAINING), p=list(TRAINING.values())))])


def _draw(rng: np.random.Generator, composer: Composer) -> tuple[Image.Image, Scene]:
    image, background = _ground(rng, (0.55, 0.15, 0.3))
    stage = Stage(rng, image, background)
    composer(stage)
    if not stage.groups:
        _scattered(stage, 1, 1.0)
    if rng.random() < _STRANGERS and len(stage.groups) > 1:  # of a thing alone texts say that nothing else is there
        _add_stranger(stage)
    return stage.image, stage.scene()


def draw_held_out(seed: tuple[int, int]) -> tuple[Image.Image, Scene]:
    """A scene by one of the composers that training never uses; the number of the seed says which."""
    return _draw(np.random.default_rng(seed), HELD_OUT[seed[1] % len(HELD_OUT)])


assert set(_GRID_CELLS) < set(CELLS)
