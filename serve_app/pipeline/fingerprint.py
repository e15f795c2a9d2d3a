"""What made a caption, in a word that stands beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from serve_app.pipeline.presets import Presets
from serve_app.pipeline.registry import PLANS
from serve_app.pipeline.scores import Support, Weights
from serve_app.types import ModelInfo, Strategy

PIPELINE_VERSION = 1
"""Goes up with every change after which the same texts and scores make other captions."""
NO_MATCHER = "none"
_DIGITS = 8


def fingerprint(
    strategy: Strategy,
    captioners: Sequence[ModelInfo],
    matcher: ModelInfo | None,
    support: Support,
    presets: Presets,
    polisher: str | None,
    answerer: str | None = None,
) -> str:
    """`<pipeline>.<captioners>.<matcher>.<settings>`: captions with equal ones were made alike.

    The models count by the contents of their files, whatever they are called; the settings are the weights and floors
    of the gate, the generation parameters, and the names of the models that answer and polish. What a request asks
    for, number formats and devices don't count, and what a strategy does not use.
    """
    weighs = PLANS[strategy].weighs
    support = support.behind(len(captioners))
    weights = support.alone if matcher is None else support.matched
    settings: tuple[Any, ...] = (_Said(weights) if weighs else None, presets, polisher)
    if weighs and answerer is not None:
        settings = (*settings, answerer, _Said(support.answered), _Said(support.confirmed))
    if any(captioner.prompts for captioner in captioners):
        settings = (*settings, *(captioner.prompts for captioner in captioners))
    models = [_model(captioner) for captioner in captioners]
    parts = (
        models[0] if len(models) == 1 else _digest(models),
        _model(matcher) if weighs and matcher else NO_MATCHER,
        _digest(settings),
    )
    return ".".join((str(PIPELINE_VERSION), *parts))


class _Said:
    """Weights as they are written: what a fingerprint does not know yet counts only where it is used."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __repr__(self) -> str:
        return repr(self._weights).replace(", voices=0.0", "")


def _model(info: ModelInfo) -> str:
    return info.revision[:_DIGITS] or _digest(info.name)


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:_DIGITS]
