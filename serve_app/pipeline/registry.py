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
    prompts: Callable[[CaptionOptions, tuple[str, ...]], tuple[str, ...]]
    """Of the variants that it begins with, by a request's options and a captioner's own prompts."""
    rounds: Callable[[CaptionOptions], int]
    weighs: bool
    """Whether statements pass the gate; then all captioners take part, else the first one."""
    begins: Callable[[Presets], GenerationParameters]
    """How those variants are generated."""

    def work(self, prompts: int, rounds: int, presets: Presets) -> int:
        """Rows that a captioner decodes for a request, summed over its generate calls.

        The extension of a short merge is left out: nobody knows beforehand whether it will run.
        """
        return prompts * _rows(self.begins(presets)) + (rounds - 1) * _rows(presets.round)


def _rows(parameters: GenerationParameters) -> int:
    return parameters.num_beams or 1


PLANS: Mapping[Strategy, Plan] = {
    "grounded": Plan(grounded, variant_prompts, lambda options: options.rounds, True, lambda presets: presets.variant),
    "classic": Plan(classic, variant_prompts, lambda options: options.rounds, False, lambda presets: presets.variant),
    "basic": Plan(basic, lambda *_: ("",), lambda _: 1, False, lambda presets: presets.basic),
}
