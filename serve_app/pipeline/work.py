"""How much a request asks of the engines, known before anything runs."""

from __future__ import annotations

from serve_app.pipeline.draft import variant_prompts
from serve_app.pipeline.presets import Presets
from serve_app.types import CaptionOptions, GenerationParameters


def work_of(options: CaptionOptions, presets: Presets) -> int:
    """Rows that the request decodes, summed over its generate calls: beams × variants, and beams of each further round.

    The extension of a short merge is left out: nobody knows beforehand whether it will run.
    """
    if options.strategy == "basic":
        return _beams(presets.basic)
    variants = len(variant_prompts(options)) * _beams(presets.variant)
    return variants + (options.rounds - 1) * _beams(presets.round)


def _beams(parameters: GenerationParameters) -> int:
    return parameters.num_beams or 1
