"""True and false statements about scenes: what a matcher has to tell apart.

A statement is a rule applied to a scene; its false twin is the same rule applied to the scene with one thing
swapped (`swaps`), so that the two differ in one object, count, size, color, position or background and in nothing
else. Of a picture of nothing that has a word, every statement about things is false.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lab import captions
from lab.backgrounds import BACKGROUNDS
from lab.captions import NOTHING, are, join, name_of, place_of, position, related, some
from lab.facts import Claim, claims
from lab.objects import COLORS, DRAWN, SHAPES, nouns_in
from lab.scenes import CELLS, Group, Scene, middle, relations

MOST = 6
"""Things of a kind in a scene."""
NEAR = 0.05
"""Distance of the middle up to which people might differ about the half that a thing lies in."""

Rule = Callable[[Scene], str]
Swap = tuple[str, Scene]
"""What was swapped, and the scene as it then would be."""


def within(cell: str, other: str) -> bool:
    """Whether what lies in `other` can be said to lie in `cell`: what is in the top left is on the left."""
    return set(cell.split()) <= set(other.split())


def swap_object(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    group = scene.groups[place]
    absent = [kind.noun for kind in (SHAPES if group.color else DRAWN) if kind.noun not in scene.nouns]
    noun = absent[int(rng.integers(len(absent)))]
    on = tuple((_renamed(one, group, noun), _renamed(other, group, noun)) for one, other in scene.on)
    return replace(_with(scene, place, replace(group, noun=noun)), on=on)


def _renamed(noun: str, group: Group, new: str) -> str:
    return new if noun == group.noun else noun


def swap_count(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    """Another number, mostly one more or one less."""
    group = scene.groups[place]
    others = [count for count in range(1, MOST + 1) if count != group.count]
    chances = np.array([1 / (count - group.count) ** 2 for count in others])
    return _with(scene, place, replace(group, count=others[int(rng.choice(len(others), p=chances / chances.sum()))]))


def swap_size(_rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    group = scene.groups[place]
    return _with(scene, place, replace(group, size="small" if group.size == "large" else "large"))


def swap_color(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    """Another color of a plain shape; where there is none, another thing."""
    colored = [number for number, group in enumerate(scene.groups) if group.color]
    if not colored:
        return swap_object(rng, scene, place)
    place = colored[int(rng.integers(len(colored)))]
    group = scene.groups[place]
    others = [color for color in COLORS if color != group.color]
    return _with(scene, place, replace(group, color=others[int(rng.integers(len(others)))]))


def swap_cell(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    """Moves a group to a place where it can't be said to lie; who lies there comes to its own."""
    group = scene.groups[place]
    cells = [cell for cell in CELLS if not within(cell, group.cell)]
    cell = cells[int(rng.integers(len(cells)))]
    moved = (
        replace(other, cell=cell if other is group else group.cell if other.cell == cell else other.cell)
        for other in scene.groups
    )
    return replace(scene, groups=tuple(moved))


def swap_relation(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    """Two things change places, or one stands on the other that does not; of a thing alone, its place changes."""
    found = relations(scene)
    if not found:
        return swap_cell(rng, scene, place)
    first, where, second = found[int(rng.integers(len(found)))]
    if where != "on" and rng.random() < 0.25:
        return replace(scene, on=(*scene.on, (first.noun, second.noun)))
    places = {first.noun: second, second.noun: first}
    groups = tuple(
        replace(group, boxes=other.boxes, cell=other.cell) if (other := places.get(group.noun)) else group
        for group in scene.groups
    )
    names = {first.noun: second.noun, second.noun: first.noun}
    return replace(scene, groups=groups, on=tuple((names.get(a, a), names.get(b, b)) for a, b in scene.on))


def swap_background(rng: np.random.Generator, scene: Scene, _place: int) -> Scene:
    others = [number for number, each in enumerate(BACKGROUNDS) if each.phrase and number != scene.background]
    return replace(scene, background=others[int(rng.integers(len(others)))])


SWAPS: dict[str, Callable[[np.random.Generator, Scene, int], Scene]] = {
    "object": swap_object,
    "count": swap_count,
    "size": swap_size,
    "color": swap_color,
    "cell": swap_cell,
    "relation": swap_relation,
    "background": swap_background,
}


WEIGHTS = {
    "object": 0.26,
    "count": 0.2,
    "size": 0.12,
    "color": 0.05,
    "cell": 0.22,
    "relation": 0.1,
    "background": 0.05,
}
"""How often training swaps what: places are hardest to learn, backgrounds easiest."""


def _with(scene: Scene, place: int, group: Group) -> Scene:
    return replace(scene, groups=(*scene.groups[:place], group, *scene.groups[place + 1 :]))


def _the(group: Group) -> str:
    return f"the {name_of(group)}"


def _sides(group: Group) -> list[str]:
    """Three positions of a group in words, the most exact first."""
    exact = position(group.cell)
    side = next((f"on the {side} side" for side in ("left", "right") if side in group.cell), exact)
    half = next(
        (f"in the {half} half" for row, half in (("top", "upper"), ("bottom", "lower")) if row in group.cell), exact
    )
    return [exact, side, half]


def clauses(scene: Scene, place: int) -> list[str]:
    """Short statements about the group at `place`, as they stand in captions or are left when one is split.

    As many for every scene, so that a scene and its twin with one thing swapped make the same statement.
    """
    group, phrase = scene.groups[place], place_of(scene)
    verb = are([group])
    there = f"there {verb} {some(group)}"
    on_it = f"{_the(group)} {verb} {phrase}" if phrase else there
    sized = some(group, size=True)
    predicates = [*_sides(group), group.size]
    found = [some(group), f"{some(group)} {phrase}".strip(), on_it, there, sized, f"{sized} {phrase}".strip()]
    found.append(f"there {verb} also {sized}")
    found += [f"{_the(group)} {verb} {predicate}" for predicate in predicates]
    for where in _sides(group):
        found += [f"{sized} {where}", f"{some(group)} {where}", f"{_the(group)} {where}"]
    for first, second in zip(predicates, [*predicates[1:], phrase or _sides(group)[0]], strict=True):
        found.append(f"{_the(group)} {verb} {first} and {second}")
    return found


def _related(scene: Scene, where: float) -> str:
    """One of the scene's relations, else a group and its place."""
    found = relations(scene)
    if found:
        return related(*found[int(where * len(found))])
    group = scene.groups[int(where * len(scene.groups))]
    return f"{_the(group)} {are([group])} {position(group.cell)}"


def _background(scene: Scene) -> list[str]:
    name = BACKGROUNDS[scene.background].name
    if not place_of(scene):
        return ["the background is unknown"] * 4
    return [place_of(scene), name, f"the background is {name}", f"{name} fills the rest of the picture"]


def _continued(rounds: int, first: Rule) -> Rule:
    def rule(scene: Scene) -> str:
        text = first(scene)
        for _ in range(rounds):
            text += captions.refinement(scene, text)
        return text

    return rule


def _detail(rounds: int, first: Rule) -> Rule:
    """What the last of `rounds` adds to a caption, alone."""

    def rule(scene: Scene) -> str:
        text = _continued(rounds - 1, first)(scene)
        return captions.refinement(scene, text).strip(",. ") or first(scene)

    return rule


def _extended(first: Rule) -> Rule:
    return lambda scene: first(scene) + captions.extension(scene, first(scene))


def everything(scene: Scene) -> str:
    """All kinds with count and size, and the background."""
    return f"{captions.inventory(scene)} {place_of(scene)}".strip()


CAPTIONS: tuple[Rule, ...] = (
    captions.unconditional,
    captions.plain,
    everything,
    *captions.VARIANTS,
    *(_continued(rounds, rule) for rounds in (1, 2, 3) for rule in captions.VARIANTS),
    *(_detail(rounds, captions.composition) for rounds in (1, 2, 3)),
    *(_extended(rule) for rule in captions.VARIANTS),
)
"""Rules that make captions of a whole scene."""


def sentences(rng: np.random.Generator, amount: int) -> Rule:
    """A rule that makes a text of several sentences; the choice of them is fixed with the rule."""
    picks = rng.random((amount, 2))
    order = rng.random(4)
    opening = int(rng.integers(3))

    def rule(scene: Scene) -> str:
        groups = [scene.groups[i] for i in np.argsort(order[: len(scene.groups)])]
        first = join([some(group, size=opening == 1) for group in groups])
        texts = [first if opening == 2 else f"{first} {place_of(scene)}".strip()]
        for where, what in picks:
            options = clauses(scene, int(where * len(scene.groups)))
            texts.append(options[int(what * len(options))])
        return ". ".join(texts)

    return rule


def statement(rng: np.random.Generator) -> Rule:
    """A random rule: one clause, a relation, a background, a caption, or several sentences."""
    roll, where, what = rng.random(3)
    if roll < 0.32:

        def clause(scene: Scene) -> str:
            options = clauses(scene, int(where * len(scene.groups)))
            return options[int(what * len(options))]

        return clause
    if roll < 0.42:
        return lambda scene: _related(scene, where)
    if roll < 0.46:
        return lambda scene: _background(scene)[int(what * 4)]
    if roll < 0.75:
        return CAPTIONS[int(what * len(CAPTIONS))]
    return sentences(rng, 1 + int(what * 4))


def swaps(rng: np.random.Generator, scene: Scene, weights: Sequence[float] | None = None) -> Swap:
    """The scene with one random thing swapped; `weights` in the order of `SWAPS`, equal ones unless given."""
    name = list(SWAPS)[int(rng.choice(len(SWAPS), p=weights))]
    return name, SWAPS[name](rng, scene, int(rng.integers(len(scene.groups))))


_STEMS = ("img", "dsc", "dscn", "pxl", "photo", "image", "scan", "screenshot", "picture", "untitled", "final", "banner")
_SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".webp", " (1)", " copy")
_PHRASES = (
    "click here",
    "read more",
    "buy now",
    "free shipping",
    "no description available",
    "image not found",
    "loading",
    "all rights reserved",
    "product photo",
    "our new collection",
    "best price online",
    "stock photo",
    "logo",
    "thumbnail",
    "share this",
)


def junk(rng: np.random.Generator) -> str:
    """A text as stands beside images on the web and describes nothing."""
    roll = rng.random()
    if roll < 0.4:
        number = str(int(rng.integers(10 ** int(rng.integers(1, 7)))))
        stem, suffix = _STEMS[int(rng.integers(len(_STEMS)))], _SUFFIXES[int(rng.integers(len(_SUFFIXES)))]
        return f"{stem}{'_- '[int(rng.integers(3))]}{number}{suffix}"
    if roll < 0.7:
        return _PHRASES[int(rng.integers(len(_PHRASES)))]
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return " ".join("".join(rng.choice(letters, int(rng.integers(3, 9)))) for _ in range(int(rng.integers(1, 4))))


def imagined(rng: np.random.Generator) -> Scene:
    """A scene that nobody drew: what is said of it is false of every picture of something else."""
    groups = []
    for cell in rng.choice(len(CELLS), int(rng.integers(1, 4)), replace=False):
        taken = {group.noun for group in groups}
        pool = [kind for kind in (SHAPES if rng.random() < 0.1 else DRAWN) if kind.noun not in taken]
        kind = pool[int(rng.integers(len(pool)))]
        x, y = (0.2, 0.5, 0.8)[cell % 3], (0.2, 0.5, 0.8)[cell // 3]
        color = "" if kind.glyph else list(COLORS)[int(rng.integers(len(COLORS)))]
        count, size = int(rng.choice((1, 1, 1, 2, 3))), ("large", "small")[int(rng.integers(2))]
        groups.append(Group(kind.noun, count, size, CELLS[cell], ((x - 0.1, y - 0.1, x + 0.1, y + 0.1),), color))
    return Scene(int(rng.integers(len(BACKGROUNDS))), tuple(groups))


def _nothing(rng: np.random.Generator, scene: Scene) -> str:
    """What is true of a picture of nothing that has a word."""
    if place_of(scene) and rng.random() < 0.3:
        return _background(scene)[int(rng.integers(4))]
    return captions.plain(scene) if rng.random() < 0.5 else NOTHING


def pair(
    rng: np.random.Generator, scene: Scene, weights: Sequence[float] | None = None, tries: int = 12
) -> tuple[str, str, str]:
    """(what was swapped, a true statement, its false twin).

    A swapped scene may be none that could be drawn; the texts stay well-formed.
    """
    if not scene.groups:
        true = _nothing(rng, scene)
        while not nouns_in(false := statement(rng)(imagined(rng))) and all(
            claim.holds(scene) for claim in claims(false)
        ):
            pass  # a background that is there, too
        return "nothing", true, false
    if rng.random() < 0.02:
        return "nothing", statement(rng)(scene), NOTHING
    for _ in range(tries):
        rule = statement(rng)
        for _ in range(4):
            name, other = swaps(rng, scene, weights)
            true, false = rule(scene), rule(other)
            if true != false and (name not in _CHECKED or any(_surely_false(claim, scene) for claim in claims(false))):
                return name, true, false
    rule = captions.plain
    return "object", rule(scene), rule(swap_object(rng, scene, 0))


def _surely_false(claim: Claim, scene: Scene) -> bool:
    """Whether nobody would call a claim true: not that a thing near the middle lies in a half."""
    if claim.holds(scene):
        return False
    group = next((group for group in scene.groups if group.noun == claim.noun), None)
    if group is None or claim.kind != "position" or claim.value not in ("left", "right", "top", "bottom"):
        return True
    x, y = middle(group.boxes)
    at = x if claim.value in ("left", "right") else y
    return (at - 0.5) * (1 if claim.value in ("left", "top") else -1) > NEAR


_CHECKED = ("size", "color", "cell", "relation")
"""Swaps after which a text may say less instead of something false, or the same in another order."""
