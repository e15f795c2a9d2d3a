"""Which text begins a caption: the one that says most of what is supported and of what the others say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serve_app.pipeline.composition import Composition
from serve_app.pipeline.language import lexicon
from serve_app.pipeline.language.comparing import telling
from serve_app.pipeline.language.kinds import WHERE, concept, content
from serve_app.pipeline.language.reading import dependents
from serve_app.pipeline.scores import Candidate, Scores

UNSURE = 0.3
"""What a word of a candidate costs: one that fewer say, or whose statement has less support, speaks against it."""
MIN_CUT = 3
"""Fewest letters of a word that may have been cut off."""


def distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One candidate of those that say the same in the same words, whatever their order."""
    by_words: dict[tuple[str, ...], Candidate] = {}
    for candidate in candidates:
        by_words.setdefault(tuple(sorted(word for word in candidate.reading.words if word != ",")), candidate)
    return list(by_words.values())


def begun(candidates: Sequence[Candidate], scores: Scores) -> Composition | None:
    """A composition that begins with the best of the candidates, without its statements that have too little support;
    with all of them if all have. None if there is no candidate.

    The statements of the candidates have to be learned."""
    failing = {candidate.reading: _failing(candidate, scores) for candidate in candidates}
    if not failing:
        return None
    base = max(candidates, key=lambda candidate: _value(candidate, failing[candidate.reading], scores))
    composition = Composition(base, scores)
    if len(failing[base.reading]) < len(base.reading.statements):
        composition.dropped |= failing[base.reading]
        composition.drop_repeated()
    return composition


def _failing(candidate: Candidate, scores: Scores) -> set[int]:
    """Statements that have too little support to stay, and those that speak of things that don't stay."""
    reading = candidate.reading
    return dependents(reading, {n for n, statement in enumerate(reading.statements) if not scores.stays(statement)})


def _value(candidate: Candidate, failing: set[int], scores: Scores) -> float:
    """How much a candidate is worth as the beginning of the caption: what it says and the others say, too."""
    reading = candidate.reading
    kept: set[str] = set()
    worth = 0.0
    for number, statement in enumerate(reading.statements):
        if number in failing:
            continue
        claims = statement.words if statement.kind == "thing" else statement.claims
        worth += (scores.of(statement) - UNSURE) * len(telling(claims) - (kept - WHERE))
        vague = statement.piece is not None and reading.pieces[statement.piece].kind == "noun"
        if statement.kind == "whole" or vague:  # "a city is a town that …"
            worth -= 0.5
        kept |= claims
    agreed = math.fsum(
        scores.agreement.share(word) - UNSURE for word in kept
    )  # a set has another order in each process
    told = [concept(word) for word in reading.words if telling(content([word]))]
    cut = sum(_is_cut(word, scores) for word in reading.words)
    return worth + 2 * agreed - 0.5 * (len(told) - len(set(told))) - cut - 0.02 * len(failing)


def _is_cut(word: str, scores: Scores) -> bool:
    """Whether a word that no dictionary knows is the beginning of another text's: "magni" of "magnifying"."""
    if len(word) < MIN_CUT or lexicon.is_known(word):
        return False
    return word in scores.agreement.beginnings
