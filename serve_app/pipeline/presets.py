"""The prompts and generation parameters of each step, as data.

`{caption}` in a prompt stands for the caption so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from serve_app.errors import InvalidOption
from serve_app.types import GenerationParameters

CAPTION_SLOT = "{caption}"

VARIANT_PROMPTS = (
    "a photography of",
    "a detailed photography of",
    "a professional photography of",
    "a high resolution photography of",
)
EXTENSION_PROMPTS = (
    "Provide a comprehensive description of this image that shows {caption}",
    "Describe this image in detail, including {caption}",
    "Write a detailed paragraph about this image featuring {caption}",
)
ROUND_PROMPT = "Add more specific visual details to this description: {caption}"


@dataclass(frozen=True, slots=True)
class Presets:
    """Generation parameters by step."""

    basic: GenerationParameters = GenerationParameters()
    variant: GenerationParameters = GenerationParameters(
        max_length=150,
        num_beams=8,
        do_sample=True,
        temperature=0.8,
        repetition_penalty=1.8,
        length_penalty=3.0,
        no_repeat_ngram_size=4,
        early_stopping=False,
    )
    extension: GenerationParameters = GenerationParameters(
        max_length=200,
        num_beams=6,
        do_sample=True,
        temperature=0.9,
        repetition_penalty=1.5,
        length_penalty=2.5,
        no_repeat_ngram_size=3,
    )
    round: GenerationParameters = GenerationParameters(
        max_length=250,
        num_beams=7,
        do_sample=True,
        temperature=0.85,
        repetition_penalty=1.6,
        length_penalty=2.0,
        no_repeat_ngram_size=4,
    )

    def override(self, changes: Mapping[str, Mapping[str, Any]]) -> Presets:
        """Returns presets with `{step: {parameter: value}}` changed. Raises `InvalidOption` for an unknown name."""
        steps = {step.name for step in fields(Presets)}
        known = {parameter.name for parameter in fields(GenerationParameters)}
        changed: dict[str, GenerationParameters] = {}
        for step, parameters in changes.items():
            if step not in steps:
                raise InvalidOption(f"There is no preset {step!r}; the presets are {', '.join(sorted(steps))}.")
            if unknown := sorted(set(parameters) - known):
                raise InvalidOption(f"Preset {step!r} has no generation parameter {unknown[0]!r}.")
            changed[step] = replace(getattr(self, step), **parameters)
        return replace(self, **changed)

    def unbeamed(self) -> Presets:
        """The same with one row for each job, as a model behind a URL counts them."""
        return replace(self, **{step.name: replace(getattr(self, step.name), num_beams=1) for step in fields(self)})

    def check_rows(self, max_rows: int) -> None:
        """Raises `InvalidOption` when a step has more beams than the engine has rows."""
        for step in fields(Presets):
            beams = getattr(self, step.name).num_beams or 1
            if beams > max_rows:
                raise InvalidOption(f"Preset {step.name!r} has {beams} beams and max_rows is {max_rows}.")
