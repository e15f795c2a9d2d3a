"""What a request may ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from serve_app.types import Detail, Strategy


class CaptionArguments(TypedDict, total=False):
    """As in the HTTP API; what is left out is the service's default."""

    detail: Detail
    multi_round: bool
    rounds: int
    strategy: Strategy
    prompts: Sequence[str]
    extra_prompts: Sequence[str]
    use: Sequence[str]
    ask: bool
    questions: Sequence[str]
    seed: int
    max_words: int
    max_characters: int
    tidy: bool
    timeout_s: float


class FilterArguments(TypedDict, total=False):
    """Of `filter`; what is left out is the service's default."""

    floor: float
    improve: bool
    detail: Detail
    seed: int
    timeout_s: float


def form_fields(options: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """The options as fields of a form."""
    fields: dict[str, str | list[str]] = {}
    for name, value in options.items():
        if isinstance(value, str | bool | int | float):
            fields[name] = value if isinstance(value, str) else json.dumps(value)
        elif value is not None:
            fields[name] = [str(item) for item in value]
    return fields
