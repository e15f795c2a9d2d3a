"""What the steps of one request share: its image, options, deadline, timings and losses."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from serve_app.deadline import Deadline
from serve_app.errors import CaptionServeError, DeadlineExceeded, PromptTooLong, ServiceError
from serve_app.pipeline.clean import OPENINGS, clean
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.language.reading import Reading
from serve_app.pipeline.presets import Presets
from serve_app.pipeline.scores import PATIENCE_S, Scores, Support, per_token
from serve_app.steps import OnStep, Step, VariantDone
from serve_app.task_types import Answer, Answerer
from serve_app.types import (
    CaptionOptions,
    Generated,
    GenerateJob,
    GenerationParameters,
    Generator,
    Matcher,
    OnOutcome,
    Outcome,
    Pixels,
    Polisher,
    Variant,
)


def stream_seed(seed: int, digest: str, step: str, index: int) -> int:
    """The seed of one job's random stream, 63 bits.

    It depends on the request's seed, the image, the step ("variant", "extension", "round 2") and the
    job's place in it, and on nothing else.
    """
    key = f"{seed}:{digest}:{step}:{index}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Text:
    """A cleaned text and the mean log-probability per token of its sequence."""

    text: str
    log_probability: float | None


class Context:
    """One request on its way through the pipeline."""

    def __init__(
        self,
        generator: Generator,
        presets: Presets,
        pixels: Pixels,
        options: CaptionOptions,
        on_step: OnStep | None = None,
        matcher: Matcher | None = None,
        support: Support | None = None,
        polisher: Polisher | None = None,
        answerer: Answerer | None = None,
        continues: bool = True,
    ) -> None:
        """`continues`: the model can be asked to go on with a caption."""
        self.continues = continues
        self.answerer = answerer
        self.polisher = polisher
        self.presets = presets
        self.options = options
        self.degraded: list[str] = []
        self.timings_ms: dict[str, float] = {}
        self._generator = generator
        self._pixels = pixels
        self._on_step = on_step
        self._matcher = matcher
        self._support = support or Support.of()
        self._deadline = Deadline.after(options.timeout_s)
        self._readings: dict[str, Reading] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Adds the block's duration to `timings_ms[step]`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[step] = self.timings_ms.get(step, 0.0) + (time.perf_counter() - start) * 1000

    def read(self, text: str) -> Reading:
        """The text's reading; each text of a request is read once."""
        if text not in self._readings:
            self._readings[text] = read(text)
        return self._readings[text]

    def tell(self, step: Step) -> None:
        """Tells whoever follows the request of a step that is done."""
        if self._on_step is not None:
            self._on_step(step)

    @property
    def remaining_s(self) -> float:
        return self._deadline.left_s

    def scores(self) -> Scores:
        """The request's scores, by the matcher if there is one."""
        return Scores(self._matcher, self._pixels, self._deadline, self._support)

    async def variants(self, step: str, prompts: Sequence[str], parameters: GenerationParameters) -> list[str]:
        """Cleaned texts of all prompts, empty if one failed; raises the cause when every one did.

        Tells of each variant as it ends.
        """
        found = await self.sequences(step, prompts, parameters)
        return [sequences[0].text if sequences else "" for sequences in found]

    async def sequences(
        self,
        step: str,
        prompts: Sequence[str],
        parameters: GenerationParameters,
        openings: tuple[str, ...] = OPENINGS,
    ) -> list[list[Text]]:
        """Like `variants`, with all sequences that each prompt returned, best first; none if one failed.

        `openings` are dropped from the beginning of each text besides the prompts."""

        def ended(index: int, outcome: Outcome) -> None:
            text = self._cleaned(step, outcome) if isinstance(outcome, Generated) else ""
            self.tell(VariantDone(index + 1, Variant(prompts[index], text)))

        # Nobody follows most requests, and a replica's answer is cheaper in one piece.
        outcomes = await self._run(step, prompts, parameters, ended if self._on_step else None)
        failures = [outcome for outcome in outcomes if isinstance(outcome, CaptionServeError)]
        if len(failures) == len(outcomes):
            raise failures[0]
        self._note_losses(step, outcomes)
        return [
            [
                Text(self._cleaned(step, one, openings), per_token(one, parameters))
                for one in (outcome, *outcome.alternatives)
            ]
            if isinstance(outcome, Generated)
            else []
            for outcome in outcomes
        ]

    async def may_generate(self, step: str, prompts: Sequence[str], parameters: GenerationParameters) -> list[str]:
        """Like `variants`, for steps that a caption can do without: losses are only noted."""
        try:
            outcomes = await self._run(step, prompts, parameters)
        except ServiceError as error:
            self.degraded.append(f"{step}: {error.message}")
            return []
        self._note_losses(step, outcomes)
        return [self._cleaned(step, outcome) if isinstance(outcome, Generated) else "" for outcome in outcomes]

    async def may_answer(self, step: str, questions: Sequence[str]) -> list[Answer]:
        """Answers to all questions; none if they were lost, which is only noted."""
        assert self.answerer is not None
        try:
            return await self.answerer.answers(self._pixels, questions, min(self._deadline.left_s, PATIENCE_S))
        except PromptTooLong as error:  # of one of them
            half = len(questions) // 2
            if not half:
                self.degraded.append(f"{step}: {error.message}")
                return [Answer("", 0.0)]
            first = await self.may_answer(step, questions[:half])
            return [*first, *await self.may_answer(step, questions[half:])]
        except ServiceError as error:
            self.degraded.append(f"{step}: {error.message}")
            return []

    def _cleaned(self, step: str, outcome: Generated, openings: tuple[str, ...] = OPENINGS) -> str:
        return clean(outcome.text, self._echoes(step, outcome), openings)

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
        if self._deadline.passed:
            raise DeadlineExceeded()
        jobs = [
            GenerateJob(prompt, parameters, stream_seed(self.options.seed, self._pixels.digest, step, index))
            for index, prompt in enumerate(prompts)
        ]
        return await self._generator.generate(self._pixels, jobs, self._deadline.left_s, on_outcome)

    def _note_losses(self, step: str, outcomes: Sequence[Outcome]) -> None:
        for number, outcome in enumerate(outcomes, start=1):
            if not isinstance(outcome, Generated):
                name = step if len(outcomes) == 1 else f"{step} {number}"
                self.degraded.append(f"{name}: {outcome.message}")
