"""Names that get their capitals back."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serve_app.pipeline.language.grammar import data, words_of
from serve_app.pipeline.language.words import CLOSED


class Names:
    """Names that are written with capitals, by their lower-case words."""

    def __init__(self) -> None:
        lists = data("names")
        self.behind = words_of(lists.pop("behind"))
        ambiguous = lists.pop("ambiguous").split("|")
        spelled: dict[tuple[str, ...], tuple[str, ...]] = {}
        for names in lists.values():
            for name in re.split(r"[|\n]", names):
                key, _, written = name.partition(":")
                spelled[tuple(key.lower().split())] = tuple((written or key).split())
        self.spelled = spelled
        self.ambiguous = {name.lower(): name for name in ambiguous}
        self.longest = max(map(len, spelled))

    def restore(self, words: Sequence[str]) -> list[str]:
        """The words with the capitals of names that stand among them in lower case."""
        found = list(words)
        at = 0
        while at < len(found):
            for length in range(min(self.longest, len(found) - at), 0, -1):
                written = self.spelled.get(tuple(word.lower() for word in found[at : at + length]))
                if written is not None:
                    found[at : at + length] = [
                        new if old.islower() else old for old, new in zip(found[at : at + length], written, strict=True)
                    ]
                    at += length
                    break
            else:
                alone = at + 1 == len(found) or found[at + 1] in CLOSED or not found[at + 1].isalpha()
                if alone and found[at] in self.ambiguous and at and found[at - 1] in self.behind:
                    found[at] = self.ambiguous[found[at]]
                at += 1
        return found


NAMES = Names()
