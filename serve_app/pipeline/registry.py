"""The caption strategies, each with what the rest of the service has to know of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from serve_app.pipeline.classic import basic, classic
from serve_app.pipeline.context import Context
from serve_app.pipeline.draft import Draft, variant_prompts
from serve_app.pipeline.grounded import grounded
from serve_app.pipeline.presets import Presets
from serve_app.types import CaptionOptions, GenerationParameters, Strategy


@dataclass(frozen=True, slots=True)
class Plan:
    """How a strategy is run."""

    run: Callable[[Context], Awaitable[Draft]]
    prompts: Callable[[CaptionOptions], tuple[str, ...]]
    """Of the variants that it begins with."""
    rounds: Callable[[CaptionOptions], int]
    weighs: bool
    """Whether statements pass the gate."""
    work: Callable[[CaptionOptions, Presets], int]
    """Rows that a request decodes, summed over its generate calls, as far as it is known before anything runs."""


def _rows(parameters: GenerationParameters) -> int:
    return parameters.num_beams or 1


def _work_in_rounds(options: CaptionOptions, presets: Presets) -> int:
    """Beams × variants, and the beams of each further round.

    The extension of a short merge is left out: nobody knows beforehand whether it will run.
    """
    variants = len(variant_prompts(options)) * _rows(presets.variant)
    return variants + (options.rounds - 1) * _rows(presets.round)


PLANS: Mapping[Strategy, Plan] = {
    "grounded": Plan(grounded, variant_prompts, lambda options: options.rounds, True, _work_in_rounds),
    "classic": Plan(classic, variant_prompts, lambda options: options.rounds, False, _work_in_rounds),
    "basic": Plan(basic, lambda _: ("",), lambda _: 1, False, lambda _, presets: _rows(presets.basic)),
}
