"""Questions about scenes, with their one right answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from lab.backgrounds import BACKGROUNDS
from lab.captions import NOTHING, NUMBERS, are, join, name_of, position, related, some
from lab.objects import BY_WORD, KINDS
from lab.scenes import APART, CELLS, Group, Scene, middle, reading_order, relation, relations
from lab.statements import NEAR, within

Asked = tuple[str, str]
"""Question and answer."""


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _pick(rng: np.random.Generator, scene: Scene) -> Group:
    return scene.groups[int(rng.integers(len(scene.groups)))]


def _any_kind(rng: np.random.Generator, scene: Scene) -> str:
    """A kind that is there or, as often, one that is not."""
    if scene.groups and rng.random() < 0.5:
        return _pick(rng, scene).noun
    absent = [kind.noun for kind in KINDS if kind.noun not in scene.nouns]
    return absent[int(rng.integers(len(absent)))]


def _listed(groups: list[Group], scene: Scene) -> str:
    if not scene.groups:
        return NOTHING
    return join([some(group) for group in sorted(groups, key=reading_order)]) if groups else "nothing"


def _what_is_in_the_cell(rng: np.random.Generator, scene: Scene) -> Asked:
    taken = [group.cell for group in scene.groups]
    among = taken if taken and rng.random() < 0.7 else CELLS
    cell = among[int(rng.integers(len(among)))]
    return f"what is {position(cell)}?", _listed([each for each in scene.groups if within(cell, each.cell)], scene)


def _what_is_on_the_side(rng: np.random.Generator, scene: Scene) -> Asked:
    side, where = (("left", "on the left side"), ("right", "on the right side"))[int(rng.integers(2))]
    if rng.random() < 0.5:
        side, where = (("top", "in the upper half"), ("bottom", "in the lower half"))[int(rng.integers(2))]
    if any(_between(group, side) for group in scene.groups):
        return _what_is_there(rng, scene)
    return f"what is {where}?", _listed([group for group in scene.groups if side in group.cell], scene)


def _between(group: Group, side: str) -> bool:
    """Whether people might differ about the half that a group lies in."""
    x, y = middle(group.boxes)
    beyond = (x if side in ("left", "right") else y) - 0.5
    return side not in group.cell and (-beyond if side in ("left", "top") else beyond) > NEAR


def _what_is_there(rng: np.random.Generator, scene: Scene) -> Asked:
    texts = ("what is in the picture?", "what can you see?", "what does the picture show?")
    return texts[int(rng.integers(len(texts)))], _listed(list(scene.groups), scene)


def _how_many(rng: np.random.Generator, scene: Scene) -> Asked:
    noun = _any_kind(rng, scene)
    count = sum(group.count for group in scene.groups if group.noun == noun)
    texts = ("how many {} are there?", "how many {} can you see?", "how many {} are in the picture?")
    return texts[int(rng.integers(len(texts)))].format(BY_WORD[noun].plural), NUMBERS[count]


def _where(rng: np.random.Generator, scene: Scene) -> Asked:
    group = _pick(rng, scene)
    return f"where {are([group])} the {name_of(group)}?", position(group.cell)


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
    cell = group.cell if rng.random() < 0.4 else CELLS[int(rng.integers(len(CELLS)))]
    text = f"{are([group])} the {name_of(group)} {position(cell)}?"
    return text, "yes" if within(cell, group.cell) else "no"


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


_WHERE = ("to the left of", "to the right of", "above", "below")


def _surely(group: Group, where: str, other: Group, scene: Scene) -> bool | None:
    """Whether `group` lies there, seen from `other`; None if people might differ."""
    if relation(scene, group, other) == where:
        return True
    (x, y), (other_x, other_y) = middle(group.boxes), middle(other.boxes)
    there = {
        "to the left of": other_x - x,
        "to the right of": x - other_x,
        "above": other_y - y,
        "below": y - other_y,
    }[where]
    return False if there < APART / 4 else None


def _what_lies_there(rng: np.random.Generator, scene: Scene) -> Asked:
    """What lies beside, above, below or on a thing; what there is, where people might differ about all of them."""
    if scene.on and rng.random() < 0.6:
        first, second = scene.on[0]
        upper = next(group for group in scene.groups if group.noun == first)
        return f"what stands on the {second}?", some(upper)
    for _ in range(6):
        group, where = _pick(rng, scene), _WHERE[int(rng.integers(4))]
        sure = {other.noun: _surely(other, where, group, scene) for other in scene.groups if other is not group}
        if any(sure.values()) or (rng.random() < 0.3 and None not in sure.values()):
            if None in sure.values():
                continue
            there = [other for other in scene.groups if sure.get(other.noun)]
            return f"what is {where} the {name_of(group)}?", _listed(there, scene)
    return _what_is_there(rng, scene)


def _does_it_lie_there(rng: np.random.Generator, scene: Scene) -> Asked:
    found = relations(scene)
    if not found:
        return _is_it_there(rng, scene)
    first, where, second = found[int(rng.integers(len(found)))]
    if where == "on":
        upper, lower = (first, second) if rng.random() < 0.5 else (second, first)
        return f"does the {name_of(upper)} stand on the {name_of(lower)}?", "yes" if upper is first else "no"
    false = [other for other in _WHERE if _surely(first, other, second, scene) is False]
    asked = where if rng.random() < 0.5 else false[int(rng.integers(len(false)))]
    text = related(first, asked, second)
    verb = are([first])
    return f"{verb} {text.replace(f' {verb} ', ' ', 1)}?", "yes" if asked == where else "no"


def _color(rng: np.random.Generator, scene: Scene) -> Asked:
    colored = [group for group in scene.groups if group.color]
    if not colored:
        return _is_there(rng, scene)
    group = colored[int(rng.integers(len(colored)))]
    return f"what color {are([group])} the {name_of(group)}?", group.color


QUESTIONS: dict[str, Callable[[np.random.Generator, Scene], Asked]] = {
    "what is in a cell": _what_is_in_the_cell,
    "what is on a side": _what_is_on_the_side,
    "what is there": _what_is_there,
    "how many": _how_many,
    "where": _where,
    "is there": _is_there,
    "is it there": _is_it_there,
    "size": _size,
    "color": _color,
    "what lies there": _what_lies_there,
    "does it lie there": _does_it_lie_there,
    "background": _background,
}
OF_NOTHING = ("what is in a cell", "what is on a side", "what is there", "how many", "is there", "background")
"""Kinds of questions that can be asked of a picture of nothing that has a word."""


LISTS = ("what is in a cell", "what is on a side", "what is there", "what lies there")
"""Kinds of questions whose answers name what is seen."""


def ask(rng: np.random.Generator, scene: Scene, weights: Mapping[str, float] | None = None) -> tuple[str, str, str]:
    """(kind of question, question, answer); all kinds as often, unless `weights` says how often each."""
    kinds = list(QUESTIONS) if scene.groups else list(OF_NOTHING)
    chances = np.array([1.0 if weights is None else weights[name] for name in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=chances / chances.sum()))]
    return kind, *QUESTIONS[kind](rng, scene)
