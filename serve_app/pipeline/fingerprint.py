"""What made a caption, in a word that stands beside it."""

from __future__ import annotations

import hashlib
from typing import Any

from serve_app.pipeline.presets import Presets
from serve_app.pipeline.registry import PLANS
from serve_app.pipeline.scores import Support
from serve_app.types import ModelInfo, Strategy

PIPELINE_VERSION = 1
"""Goes up with every change after which the same texts and scores make other captions."""
NO_MATCHER = "none"
_DIGITS = 8


def fingerprint(
    strategy: Strategy,
    captioner: ModelInfo,
    matcher: ModelInfo | None,
    support: Support,
    presets: Presets,
    polisher: str | None,
    answerer: str | None = None,
) -> str:
    """`<pipeline>.<captioner>.<matcher>.<settings>`: captions with equal ones were made alike.

    The models count by the contents of their files, whatever they are called; the settings are the weights and floors
    of the gate, the generation parameters, and the names of the models that answer and polish. What a request asks
    for, number formats and devices don't count, and what a strategy does not use.
    """
    weighs = PLANS[strategy].weighs
    weights = support.alone if matcher is None else support.matched
    settings: tuple[Any, ...] = (weights if weighs else None, presets, polisher)
    if weighs and answerer is not None:
        settings = (*settings, answerer, support.answered, support.confirmed)
    if captioner.prompts:
        settings = (*settings, captioner.prompts)
    parts = (_model(captioner), _model(matcher) if weighs and matcher else NO_MATCHER, _digest(settings))
    return ".".join((str(PIPELINE_VERSION), *parts))


def _model(info: ModelInfo) -> str:
    return info.revision[:_DIGITS] or _digest(info.name)


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:_DIGITS]
