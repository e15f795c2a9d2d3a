"""True and false statements about scenes: what a matcher has to tell apart.

A statement is a rule applied to a scene; its false twin is the same rule applied to the scene with one thing
swapped (`swaps`), so that the two differ in one object, count, size, position or background and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lab import captions
from lab.backgrounds import BACKGROUNDS
from lab.captions import are, join, name_of, place_of, some
from lab.objects import KINDS
from lab.scenes import Group, Scene

CELLS = ("top left", "top right", "bottom left", "bottom right")

Rule = Callable[[Scene], str]
Swap = tuple[str, Scene]
"""What was swapped, and the scene as it then would be."""


def swap_object(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    absent = [kind.noun for kind in KINDS if kind.noun not in scene.nouns]
    return _with(scene, place, replace(scene.groups[place], noun=absent[int(rng.integers(len(absent)))]))


def swap_count(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    group = scene.groups[place]
    others = [count for count in (1, 2, 3) if count != group.count]
    return _with(scene, place, replace(group, count=others[int(rng.integers(2))]))


def swap_size(_rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    group = scene.groups[place]
    return _with(scene, place, replace(group, size="small" if group.size == "large" else "large"))


def swap_cell(rng: np.random.Generator, scene: Scene, place: int) -> Scene:
    """Moves a group to another cell; who lies there comes to its own."""
    group = scene.groups[place]
    cells = [cell for cell in CELLS if cell != group.cell]
    cell = cells[int(rng.integers(len(cells)))]
    moved = (
        replace(other, cell=cell if other is group else group.cell if other.cell == cell else other.cell)
        for other in scene.groups
    )
    return Scene(scene.background, tuple(moved))


def swap_background(rng: np.random.Generator, scene: Scene, _place: int) -> Scene:
    shift = 1 + int(rng.integers(len(BACKGROUNDS) - 1))
    return Scene((scene.background + shift) % len(BACKGROUNDS), scene.groups)


SWAPS: dict[str, Callable[[np.random.Generator, Scene, int], Scene]] = {
    "object": swap_object,
    "count": swap_count,
    "size": swap_size,
    "cell": swap_cell,
    "background": swap_background,
}


WEIGHTS = {"object": 0.3, "count": 0.2, "size": 0.15, "cell": 0.3, "background": 0.05}
"""How often training swaps what: places are hardest to learn, backgrounds easiest."""


def _with(scene: Scene, place: int, group: Group) -> Scene:
    return Scene(scene.background, (*scene.groups[:place], group, *scene.groups[place + 1 :]))


def _the(group: Group) -> str:
    return f"the {name_of(group)}"


def _sides(group: Group) -> list[str]:
    """Three positions of a group in words, the cell first."""
    if group.cell == "center":
        return ["in the center"] * 3
    upper, left = "top" in group.cell, "left" in group.cell
    return [
        f"in the {group.cell}",
        f"on the {'left' if left else 'right'} side",
        f"in the {'upper' if upper else 'lower'} half",
    ]


def clauses(scene: Scene, place: int) -> list[str]:
    """Short statements about the group at `place`, as they stand in captions or are left when one is split."""
    group, phrase = scene.groups[place], place_of(scene)
    verb = are([group])
    predicates = [*_sides(group), *([group.size] if group.count == 1 else [])]
    found = [some(group), f"{some(group)} {phrase}", f"{_the(group)} {verb} {phrase}", f"there {verb} {some(group)}"]
    if group.count == 1:
        found += [some(group, size=True), f"{some(group, size=True)} {phrase}"]
    found.append(f"there {verb} also {some(group, size=True)}")
    for predicate in predicates:
        found.append(f"{_the(group)} {verb} {predicate}")
    for position in _sides(group):
        found += [f"{some(group, size=True)} {position}", f"{some(group)} {position}", f"{_the(group)} {position}"]
    for first, second in zip(predicates, [*predicates[1:], phrase], strict=True):
        found.append(f"{_the(group)} {verb} {first} and {second}")
    return found


def _background(scene: Scene) -> list[str]:
    name = BACKGROUNDS[scene.background].name
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
    return f"{captions.inventory(scene)} {place_of(scene)}"


CAPTIONS: tuple[Rule, ...] = (
    captions.unconditional,
    captions.plain,
    everything,
    *captions.VARIANTS,
    *(_continued(rounds, rule) for rounds in (1, 2) for rule in captions.VARIANTS),
    *(_detail(rounds, captions.composition) for rounds in (1, 2)),
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
        texts = [first if opening == 2 else f"{first} {place_of(scene)}"]
        for where, what in picks:
            options = clauses(scene, int(where * len(scene.groups)))
            texts.append(options[int(what * len(options))])
        return ". ".join(texts)

    return rule


def statement(rng: np.random.Generator) -> Rule:
    """A random rule: one clause, a background, a caption, or several sentences."""
    roll, where, what = rng.random(3)
    if roll < 0.4:

        def clause(scene: Scene) -> str:
            options = clauses(scene, int(where * len(scene.groups)))
            return options[int(what * len(options))]

        return clause
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


def pair(
    rng: np.random.Generator, scene: Scene, weights: Sequence[float] | None = None, tries: int = 12
) -> tuple[str, str, str]:
    """(what was swapped, a true statement, its false twin).

    A swap of the centre's group changes it to a cell of a scene that may not exist; the texts stay well-formed.
    """
    for _ in range(tries):
        rule = statement(rng)
        for _ in range(4):
            name, other = swaps(rng, scene, weights)
            true, false = rule(scene), rule(other)
            # The same words in another order claim the same of a list without places.
            placed = any(word in true for word in ("top", "bottom", "side", "half", "center"))
            if true != false and (placed or sorted(true.split()) != sorted(false.split())):
                return name, true, false
    rule = captions.plain
    return "object", rule(scene), rule(swap_object(rng, scene, 0))
