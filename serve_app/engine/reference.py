"""The engine `reference`: BLIP by transformers' own `generate`, one job after the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteriaList

from serve_app.engine import blip
from serve_app.engine.loading import Loaded
from serve_app.engine.parameters import fit, given, limit
from serve_app.engine.pixels import Normalizer
from serve_app.engine.prompts import PromptCodec
from serve_app.engine.sequential import Interrupt, SequentialGenerator, seeded
from serve_app.errors import ModelUnsupported
from serve_app.types import Generated, GenerateJob, Pixels


class ReferenceGenerator(SequentialGenerator):
    """Generator over `BlipForConditionalGeneration.generate`."""

    def __init__(self, loaded: Loaded) -> None:
        """Raises `ModelUnsupported` for int8 and fp8."""
        if (name := loaded.precision.name) in ("int8", "fp8"):
            raise ModelUnsupported(f"The reference engine has no {name}; use float32 or bfloat16.")
        super().__init__(loaded.info)
        self._loaded = loaded
        self._end = blip.end_token(loaded.model.config)
        self._codec = PromptCodec.of(loaded)
        self._normalize = Normalizer(loaded.mean, loaded.std, loaded.info)

    def generated(self, pixels: Pixels, job: GenerateJob, interrupt: Interrupt) -> Generated:
        model, codec = self._loaded.model, self._codec
        pixel_values = self._normalize(pixels).to(model.dtype)
        prompt = codec.encode(job.prompt)
        longest = limit(job.parameters, model.generation_config.max_length, self._loaded.info.max_positions)
        lengths = fit(job.parameters, len(prompt), longest)
        with seeded(job.seed, model.device):
            found: Any = model.generate(
                pixel_values=pixel_values,
                input_ids=torch.tensor([blip.generate_ids(prompt)], device=model.device),  # type: ignore[arg-type]
                stopping_criteria=StoppingCriteriaList([interrupt]),
                return_dict_in_generate=True,
                output_scores=True,
                **{**given(job.parameters), **lengths},
            )
        interrupt.check()
        scores: Any = getattr(found, "sequences_scores", None)
        results = [
            codec.generated(prompt, self._trim(ids, len(prompt)), None if scores is None else float(scores[place]))
            for place, ids in enumerate(found.sequences.tolist())
        ]
        return replace(results[0], alternatives=tuple(results[1:]))

    def _trim(self, ids: list[int], prompt_tokens: int) -> list[int]:
        """Drops what fills a sequence up to the longest one's length."""
        return ids[: ids.index(self._end, prompt_tokens) + 1] if self._end in ids[prompt_tokens:] else ids
