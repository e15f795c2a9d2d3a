"""What the steps of one request share: its image, options, deadline, timings and losses."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from serve_app.errors import CaptionServeError, DeadlineExceeded, ServiceError
from serve_app.pipeline.clean import clean
from serve_app.pipeline.presets import Presets
from serve_app.types import (
    CaptionOptions,
    Generated,
    GenerateJob,
    GenerationParameters,
    Generator,
    OnOutcome,
    OnStep,
    Outcome,
    Pixels,
    Step,
    Variant,
    VariantDone,
)


def stream_seed(seed: int, digest: str, step: str, index: int) -> int:
    """The seed of one job's random stream, 63 bits.

    It depends on the request's seed, the image, the step ("variant", "extension", "round 2") and the
    job's place in it, and on nothing else.
    """
    key = f"{seed}:{digest}:{step}:{index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


class Context:
    """One request on its way through the pipeline."""

    def __init__(
        self,
        generator: Generator,
        presets: Presets,
        pixels: Pixels,
        options: CaptionOptions,
        on_step: OnStep | None = None,
    ) -> None:
        self.presets = presets
        self.options = options
        self.degraded: list[str] = []
        self.timings_ms: dict[str, float] = {}
        self._generator = generator
        self._pixels = pixels
        self._on_step = on_step
        self._deadline = time.monotonic() + options.timeout_s

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the block's duration to `timings_ms[step]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[step] = self.timings_ms.get(step, 0.0) + (time.perf_counter() - start) * 1000

    def tell(self, step: Step) -> None:
        """Tells whoever follows the request of a step that is done."""
        if self._on_step is not None:
            self._on_step(step)

    async def variants(self, step: str, prompts: Sequence[str], parameters: GenerationParameters) -> list[str]:
        """Cleaned texts of all prompts, empty where one failed; raises the cause when every one did.

        Tells of each variant as it ends.
        """

        def ended(index: int, outcome: Outcome) -> None:
            text = self._cleaned(step, outcome) if isinstance(outcome, Generated) else ""
            self.tell(VariantDone(index + 1, Variant(prompts[index], text)))

        # Nobody follows most requests, and a replica's answer is cheaper in one piece.
        outcomes = await self._run(step, prompts, parameters, ended if self._on_step else None)
        failures = [outcome for outcome in outcomes if isinstance(outcome, CaptionServeError)]
        if len(failures) == len(outcomes):
            raise failures[0]
        return self._texts(step, prompts, outcomes)

    async def may_generate(self, step: str, prompts: Sequence[str], parameters: GenerationParameters) -> list[str]:
        """Like `variants`, for steps that a caption can do without: losses are only noted."""
        try:
            outcomes = await self._run(step, prompts, parameters)
        except ServiceError as error:
            self.degraded.append(f"{step}: {error.message}")
            return []
        return self._texts(step, prompts, outcomes)

    def _cleaned(self, step: str, outcome: Generated) -> str:
        return clean(outcome.text, self._echoes(step, outcome))

    def _echoes(self, step: str, outcome: Generated) -> tuple[str, ...]:
        """A request's own prompt is dropped like the known ones; later prompts carry a caption that must stay."""
        own = self.options.prompts or self.options.extra_prompts
        return (outcome.prompt,) if step == "variant" and own else ()

    async def _run(
        self,
        step: str,
        prompts: Sequence[str],
        parameters: GenerationParameters,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded("The request's time ran out.")
        jobs = [
            GenerateJob(prompt, parameters, stream_seed(self.options.seed, self._pixels.digest, step, index))
            for index, prompt in enumerate(prompts)
        ]
        return await self._generator.generate(self._pixels, jobs, remaining, on_outcome)

    def _texts(self, step: str, prompts: Sequence[str], outcomes: Sequence[Outcome]) -> list[str]:
        texts = []
        for number, outcome in enumerate(outcomes, start=1):
            if isinstance(outcome, Generated):
                texts.append(self._cleaned(step, outcome))
            else:
                name = step if len(prompts) == 1 else f"{step} {number}"
                self.degraded.append(f"{name}: {outcome.message}")
                texts.append("")
        return texts
