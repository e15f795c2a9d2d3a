"""The small language in which scenes are described: what the right answer to each prompt is.

Every prompt of the presets brings out another part of a scene:

| prompt | answer |
|---|---|
| none | the first two kinds and the background |
| `a photography of` | the first kind with its size, and the background |
| `a detailed photography of` | all kinds with count and size |
| `a professional photography of` | all kinds with their cell, in reading order |
| `a high resolution photography of` | all kinds against the reading order, and the background |
| an extension prompt with a caption | what that caption leaves out |
| the round prompt with a caption | sides first, then halves, then what lies beside or on what, then nothing |

Continuations repeat no four words of the caption before them, since the presets forbid repeated
n-grams. A picture of nothing that has a word is described as `NOTHING`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lab.backgrounds import BACKGROUNDS
from lab.objects import BY_WORD, nouns_in
from lab.scenes import Group, Scene, reading_order, relations

PLAIN_PROMPTS = (
    "a picture of",
    "an image of",
    "a photo of",
    "a close up of",
    "a view of",
    "a scene of",
    "this is",
    "the picture shows",
)
"""Prompts beyond the presets that the model also understands; answered by all kinds and the background."""

NOTHING = "nothing that i know"
"""What is to be seen where nothing has a word."""
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")


def join(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; `NOTHING` of no items."""
    if not items:
        return NOTHING
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def name_of(group: Group) -> str:
    return group.noun if group.count == 1 else BY_WORD[group.noun].plural


def some(group: Group, size: bool = False) -> str:
    """ "a large dog", "two apples", "a red circle"."""
    words = [group.size] if size and group.count == 1 else []
    words += [group.color, name_of(group)] if group.color else [name_of(group)]
    if group.count > 1:
        return " ".join([NUMBERS[group.count], *words])
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def position(cell: str) -> str:
    """ "in the top left", "at the bottom", "on the right"."""
    return f"{'at' if cell in ('top', 'bottom') else 'on' if cell in ('left', 'right') else 'in'} the {cell}"


def _the(groups: Sequence[Group]) -> list[str]:
    return [f"the {name_of(group)}" for group in groups]


def place_of(scene: Scene) -> str:
    return BACKGROUNDS[scene.background].phrase


def _told(things: Sequence[str], scene: Scene) -> str:
    """The things before the scene's background."""
    return f"{join(things)} {place_of(scene)}".strip()


def unconditional(scene: Scene) -> str:
    return _told([some(group) for group in scene.groups[:2]], scene)


def main(scene: Scene) -> str:
    return _told([some(group, size=True) for group in scene.groups[:1]], scene)


def inventory(scene: Scene) -> str:
    return join([some(group, size=True) for group in scene.groups])


def composition(scene: Scene) -> str:
    placed = groupby(sorted(scene.groups, key=reading_order), key=lambda group: group.cell)
    return join([f"{' and '.join(map(some, groups))} {position(cell)}" for cell, groups in placed])


def panorama(scene: Scene) -> str:
    """All kinds with count, size and cell, in reading order, and the background: what the second captioner says."""
    things = [f"{some(group, size=True)} {position(group.cell)}" for group in sorted(scene.groups, key=reading_order)]
    return _told(things, scene)


def backwards(scene: Scene) -> str:
    return _told([some(group) for group in sorted(scene.groups, key=reading_order, reverse=True)], scene)


def plain(scene: Scene) -> str:
    return _told([some(group) for group in scene.groups], scene)


VARIANTS = (main, inventory, composition, backwards)
"""Answers to the variant prompts, in the order of the presets."""


def _unsaid(scene: Scene, caption: str) -> list[Group]:
    named = nouns_in(caption)
    return [group for group in scene.groups if group.noun not in named]


def _background_said(scene: Scene, caption: str) -> bool:
    ground = BACKGROUNDS[scene.background]
    return not ground.phrase or ground.name.split()[-1] in caption.lower().split()


def extension(scene: Scene, caption: str) -> str:
    """What `caption` leaves out of the scene, beginning with a comma; the answer to an extension prompt."""
    parts = []
    if missing := _unsaid(scene, caption):
        parts.append(f", together with {join([some(group) for group in missing])}")
    if not _background_said(scene, caption):
        parts.append(f" {place_of(scene)}")
    if len(scene.groups) == 1 and "nothing else" not in caption:
        where = position(scene.groups[0].cell)
        parts.append(", with nothing else around " + (f"it {where}" if where not in caption else "to be seen"))
    return "".join(parts) or "."


def refinement(scene: Scene, caption: str) -> str:
    """The answer to the round prompt: the next layer of detail that `caption` lacks, or a full stop."""
    said = caption.lower()
    if len(scene.groups) == 1:
        return _alone(scene, said)
    if " side" not in said and (sides := _sides(scene)):
        return sides
    if " half" not in said and (halves := _halves(scene)):
        return halves
    if not any(word in said for word in (" left of", " right of", " above", " below", " stands on")):
        return _relations(scene)
    return "."


def _alone(scene: Scene, said: str) -> str:
    group = scene.groups[0]
    if "all alone" not in said:
        return f", where the {name_of(group)} {are([group])} {group.size} and all alone in front of the viewer"
    if "fills the rest" not in said and place_of(scene):
        return f", and {BACKGROUNDS[scene.background].name} fills the rest of the picture"
    return "."


def _sides(scene: Scene) -> str:
    left = [group for group in scene.groups if "left" in group.cell]
    right = [group for group in scene.groups if "right" in group.cell]
    if left and right:
        return (
            f", where {join(_the(left))} {are(left)} on the left side"
            f" while {join(_the(right))} {are(right)} on the right side"
        )
    there, side = left or right, "left" if left else "right"
    if len(there) < 2:
        return f", where {join(_the(there))} {are(there)} on the {side} side of this picture" if there else ""
    both = " both" if len(there) == 2 else ""
    return f", where {join(_the(there))} are{both} on the {side} side of this picture"


def _halves(scene: Scene) -> str:
    upper = " plus ".join(_the([group for group in scene.groups if "top" in group.cell]))
    lower = " plus ".join(_the([group for group in scene.groups if "bottom" in group.cell]))
    if upper and lower:
        return f", with {upper} in the upper half and {lower} in the lower one"
    half = "upper" if upper else "lower"
    return f", with {upper or lower} in the {half} half of what one sees" if upper or lower else ""


def related(first: Group, where: str, second: Group) -> str:
    """ "the dog is to the left of the cat"."""
    verb = are([first]) if where != "on" else "stands" if first.count == 1 else "stand"
    return f"the {name_of(first)} {verb} {where} the {name_of(second)}"


def _relations(scene: Scene) -> str:
    """What stands on what, else the first thing that lies beside, above or below another one; a full stop if none."""
    found = sorted(relations(scene), key=lambda pair: pair[1] != "on")
    return f", and {related(*found[0])}" if found else "."


def are(groups: Sequence[Group]) -> str:
    return "is" if len(groups) == 1 and groups[0].count == 1 else "are"
