"""Questions about scenes, with their one right answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lab.backgrounds import BACKGROUNDS
from lab.captions import are, join, name_of, some
from lab.objects import BY_WORD, KINDS
from lab.scenes import Group, Scene, reading_order
from lab.statements import CELLS

COUNTS = ("zero", "one", "two", "three")

Asked = tuple[str, str]
"""Question and answer."""


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _pick(rng: np.random.Generator, scene: Scene) -> Group:
    return scene.groups[int(rng.integers(len(scene.groups)))]


def _any_kind(rng: np.random.Generator, scene: Scene) -> str:
    """A kind that is there or, as often, one that is not."""
    if rng.random() < 0.5:
        return _pick(rng, scene).noun
    absent = [kind.noun for kind in KINDS if kind.noun not in scene.nouns]
    return absent[int(rng.integers(len(absent)))]


def _listed(groups: list[Group]) -> str:
    return join([some(group) for group in sorted(groups, key=reading_order)]) if groups else "nothing"


def _what_is_in_the_cell(rng: np.random.Generator, scene: Scene) -> Asked:
    cells = [*CELLS, "center"] if scene.groups[0].cell == "center" else CELLS
    taken = [group.cell for group in scene.groups]
    cell = taken[int(rng.integers(len(taken)))] if rng.random() < 0.7 else cells[int(rng.integers(len(cells)))]
    return f"what is in the {cell}?", _listed([group for group in scene.groups if group.cell == cell])


def _what_is_on_the_side(rng: np.random.Generator, scene: Scene) -> Asked:
    side, where = (("left", "on the left side"), ("right", "on the right side"))[int(rng.integers(2))]
    if rng.random() < 0.5:
        side, where = (("top", "in the upper half"), ("bottom", "in the lower half"))[int(rng.integers(2))]
    return f"what is {where}?", _listed([group for group in scene.groups if side in group.cell])


def _what_is_there(rng: np.random.Generator, scene: Scene) -> Asked:
    texts = ("what is in the picture?", "what can you see?", "what does the picture show?")
    return texts[int(rng.integers(len(texts)))], _listed(list(scene.groups))


def _how_many(rng: np.random.Generator, scene: Scene) -> Asked:
    noun = _any_kind(rng, scene)
    count = sum(group.count for group in scene.groups if group.noun == noun)
    texts = ("how many {} are there?", "how many {} can you see?", "how many {} are in the picture?")
    return texts[int(rng.integers(len(texts)))].format(BY_WORD[noun].plural), COUNTS[count]


def _where(rng: np.random.Generator, scene: Scene) -> Asked:
    group = _pick(rng, scene)
    return f"where {are([group])} the {name_of(group)}?", f"in the {group.cell}"


def _is_there(rng: np.random.Generator, scene: Scene) -> Asked:
    noun = _any_kind(rng, scene)
    roll = rng.random()
    if roll < 0.4:
        text = f"is there {_article(noun)}?"
    elif roll < 0.7:
        text = f"is there {_article(noun)} in the picture?"
    else:
        text = f"are there any {BY_WORD[noun].plural}?"
    return text, "yes" if noun in scene.nouns else "no"


def _is_it_there(rng: np.random.Generator, scene: Scene) -> Asked:
    group = _pick(rng, scene)
    cell = group.cell if rng.random() < 0.5 else CELLS[int(rng.integers(4))]
    return f"{are([group])} the {name_of(group)} in the {cell}?", "yes" if cell == group.cell else "no"


def _size(rng: np.random.Generator, scene: Scene) -> Asked:
    group = _pick(rng, scene)
    if rng.random() < 0.5:
        return f"what size {are([group])} the {name_of(group)}?", group.size
    size = "large" if rng.random() < 0.5 else "small"
    return f"{are([group])} the {name_of(group)} {size}?", "yes" if size == group.size else "no"


def _background(rng: np.random.Generator, scene: Scene) -> Asked:
    name = BACKGROUNDS[scene.background].name
    if rng.random() < 0.6:
        return "what is the background?", name
    other = name if rng.random() < 0.5 else BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))].name
    return f"is the background {other}?", "yes" if other == name else "no"


QUESTIONS: dict[str, Callable[[np.random.Generator, Scene], Asked]] = {
    "what is in a cell": _what_is_in_the_cell,
    "what is on a side": _what_is_on_the_side,
    "what is there": _what_is_there,
    "how many": _how_many,
    "where": _where,
    "is there": _is_there,
    "is it there": _is_it_there,
    "size": _size,
    "background": _background,
}


LISTS = ("what is in a cell", "what is on a side", "what is there")
"""Kinds of questions whose answers name what is seen."""


def ask(rng: np.random.Generator, scene: Scene, weights: Mapping[str, float] | None = None) -> tuple[str, str, str]:
    """(kind of question, question, answer); all kinds as often, unless `weights` says how often each."""
    kinds = list(QUESTIONS)
    kind = kinds[int(rng.integers(len(kinds)))]
    if weights is not None:
        kind = kinds[int(rng.choice(len(kinds), p=[weights[name] for name in kinds]))]
    return kind, *QUESTIONS[kind](rng, scene)
