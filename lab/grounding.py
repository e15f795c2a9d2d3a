"""What each noun of a text stands for in a scene: dense labels that teach text layers where to look.

A score or an answer says once a text whether it was right; these labels say at each noun what is to be found in the
picture, so that attention to the right patches is learned first and comparing comes after.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import BertTokenizer

from lab.objects import KINDS
from lab.scenes import CELLS, Scene
from lab.statements import MOST
from lab.training_data import IGNORED

ABSENT = 0
FACTS = 1 + len(CELLS) * MOST * 2
"""Where, how many and how large; or `ABSENT`."""
NOTHING = 0
NAMES = 1 + len(KINDS) * MOST
"""Which kind and how many; or `NOTHING`."""


class Nouns:
    """The tokens that name kinds, and what they stand for."""

    def __init__(self, tokenizer: BertTokenizer) -> None:
        vocabulary = tokenizer.get_vocab()
        self._kinds = {
            vocabulary[word]: index
            for index, kind in enumerate(KINDS)
            for word in (kind.noun, kind.plural)
            if word in vocabulary
        }

    def facts(self, ids: Sequence[int], scene: Scene) -> list[int]:
        """For each token its label of `FACTS`, `IGNORED` where it names no kind."""
        there = {
            group.noun: 1 + (CELLS.index(group.cell) * MOST + group.count - 1) * 2 + (group.size == "large")
            for group in scene.groups
        }
        kinds = (self._kinds.get(token) for token in ids)
        return [IGNORED if kind is None else there.get(KINDS[kind].noun, ABSENT) for kind in kinds]

    def names(self, ids: Sequence[int], scene: Scene) -> list[int]:
        """The labels of `NAMES` of the kinds that the tokens name, in their order."""
        counts = {group.noun: group.count for group in scene.groups}
        kinds = (self._kinds[token] for token in ids if token in self._kinds)
        return [1 + kind * MOST + counts.get(KINDS[kind].noun, 1) - 1 for kind in kinds]
