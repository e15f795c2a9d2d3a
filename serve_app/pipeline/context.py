"""What the steps of one request share: its image, options, deadline, timings and losses."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from serve_app.deadline import Deadline
from serve_app.errors import (
    CaptionRefused,
    CaptionServeError,
    DeadlineExceeded,
    GenerationFailed,
    PromptTooLong,
    ServiceError,
)
from serve_app.pipeline.clean import OPENINGS, clean
from serve_app.pipeline.committee import Ask, Committee, Voice
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.language.reading import Reading
from serve_app.pipeline.language.replies import described, refuses
from serve_app.pipeline.presets import Presets
from serve_app.pipeline.scores import PATIENCE_S, Scores, Support, per_token
from serve_app.steps import OnStep, Step, VariantDone
from serve_app.task_types import Answer, Answerer
from serve_app.types import (
    CaptionOptions,
    Generated,
    GenerateJob,
    GenerationParameters,
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
        committee: Committee,
        voices: Sequence[Voice],
        presets: Presets,
        pixels: Pixels,
        options: CaptionOptions,
        on_step: OnStep | None = None,
        matcher: Matcher | None = None,
        support: Support | None = None,
        polisher: Polisher | None = None,
        answerer: Answerer | None = None,
    ) -> None:
        """`voices` are the captioners that take part; `pixels` are for matcher and answerer."""
        self.voices = tuple(voices)
        self.answerer = answerer
        self.polisher = polisher
        self.presets = presets
        self.options = options
        self.degraded: list[str] = []
        self.timings_ms: dict[str, float] = {}
        self._committee = committee
        self._lost: set[Voice] = set()
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

    @property
    def present(self) -> tuple[Voice, ...]:
        """The captioners that gave texts so far."""
        return tuple(voice for voice in self.voices if voice not in self._lost)

    def continuing(self, prompts: Sequence[str]) -> tuple[Ask, ...]:
        """The prompts for each captioner that can be asked to go on with a caption."""
        return tuple(Ask(voice, prompt) for voice in self.present if voice.info.continues for prompt in prompts)

    @property
    def continues(self) -> bool:
        """Whether any captioner can be asked to go on with a caption."""
        return any(voice.info.continues for voice in self.present)

    async def variants(self, step: str, asks: Sequence[Ask], parameters: GenerationParameters) -> list[str]:
        """Cleaned texts of all prompts, empty if one failed; raises the cause when every one did.

        Tells of each variant as it ends.
        """
        found = await self.sequences(step, asks, parameters)
        return [sequences[0].text if sequences else "" for sequences in found]

    async def sequences(
        self,
        step: str,
        asks: Sequence[Ask],
        parameters: GenerationParameters,
        openings: tuple[str, ...] = OPENINGS,
    ) -> list[list[Text]]:
        """Like `variants`, with all sequences that each prompt returned, best first; none if one failed.

        `openings` are dropped from the beginning of each text besides the prompts."""

        def ended(index: int, outcome: Outcome) -> None:
            ask = asks[index]
            text = self._cleaned(step, ask, outcome) if isinstance(outcome, Generated) else ""
            self.tell(VariantDone(index + 1, Variant(ask.prompt, text, captioner=ask.voice.name)))

        # Nobody follows most requests, and a replica's answer is cheaper in one piece.
        outcomes = await self._run(step, asks, parameters, ended if self._on_step else None)
        failures = [outcome for outcome in outcomes if isinstance(outcome, CaptionServeError)]
        if len(failures) == len(outcomes):
            raise failures[0]
        self._note_losses(step, asks, outcomes)
        return [
            [
                Text(self._cleaned(step, ask, one, openings), per_token(one, parameters))
                for one in (outcome, *outcome.alternatives)
            ]
            if isinstance(outcome, Generated)
            else []
            for ask, outcome in zip(asks, outcomes, strict=True)
        ]

    async def may_generate(self, step: str, asks: Sequence[Ask], parameters: GenerationParameters) -> list[str]:
        """Like `variants`, for steps that a caption can do without: losses are only noted."""
        try:
            outcomes = await self._run(step, asks, parameters)
        except ServiceError as error:
            self.degraded.append(f"{step}: {error.message}")
            return []
        self._note_losses(step, asks, outcomes)
        return [
            self._cleaned(step, ask, outcome) if isinstance(outcome, Generated) else ""
            for ask, outcome in zip(asks, outcomes, strict=True)
        ]

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

    def _cleaned(self, step: str, ask: Ask, outcome: Generated, openings: tuple[str, ...] = OPENINGS) -> str:
        return clean(outcome.text, self._echoes(step, ask, outcome), openings)

    def _echoes(self, step: str, ask: Ask, outcome: Generated) -> tuple[str, ...]:
        """A prompt that is not one of the presets' is dropped like those; later prompts carry a caption that must
        stay."""
        own = self.options.prompts or self.options.extra_prompts or ask.voice.info.prompts
        return (outcome.prompt,) if step == "variant" and own else ()

    async def _run(
        self,
        step: str,
        asks: Sequence[Ask],
        parameters: GenerationParameters,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """The outcomes in order: one call for each captioner, all at once. Raises the error if there is only one."""
        if self._deadline.passed:
            raise DeadlineExceeded()
        untold = set(range(len(asks)))
        places: dict[Voice, list[int]] = {}
        for place, ask in enumerate(asks):
            places.setdefault(ask.voice, []).append(place)

        async def of(voice: Voice) -> list[Outcome]:
            mine = places[voice]
            jobs = [
                GenerateJob(
                    asks[place].prompt,
                    parameters,
                    stream_seed(self.options.seed, voice.pixels.digest, step, index),
                )
                for index, place in enumerate(mine)
            ]
            generate = voice.member.generator.generate
            given = await generate(voice.pixels, jobs, self._deadline.left_s, telling(voice, mine))
            return [_heard(voice, outcome) for outcome in given]

        def telling(voice: Voice, mine: Sequence[int]) -> OnOutcome | None:
            if on_outcome is None:
                return None

            def tell(index: int, outcome: Outcome) -> None:
                untold.discard(mine[index])
                on_outcome(mine[index], _heard(voice, outcome))

            return tell

        if len(places) == 1:
            return await of(next(iter(places)))
        voices = {voice.member: voice for voice in places}
        calls = {member: partial(of, voice) for member, voice in voices.items()}
        found = await self._committee.together(calls, self._deadline, failure=_failure)
        outcomes: list[Outcome] = [GenerationFailed("Nothing was generated.")] * len(asks)
        for member, result in found.items():
            mine = places[voices[member]]
            given: Sequence[Outcome] = [result] * len(mine) if isinstance(result, CaptionServeError) else result
            if _failure(given) is not None:
                self._lost.add(voices[member])
            for place, outcome in zip(mine, given, strict=False):
                outcomes[place] = outcome
        for place in sorted(untold):
            if on_outcome is not None:
                on_outcome(place, outcomes[place])
        return outcomes

    def _note_losses(self, step: str, asks: Sequence[Ask], outcomes: Sequence[Outcome]) -> None:
        """One sentence for each job that was lost, or one for all of a captioner's."""
        for number, (ask, outcome) in enumerate(zip(asks, outcomes, strict=False), start=1):
            if isinstance(outcome, Generated):
                continue
            name = step if len(outcomes) == 1 else f"{step} {number}"
            if ask.voice.name is not None:
                name = ask.voice.name if ask.voice in self._lost else f"{ask.voice.name}, {name}"
            lost = f"{name}: {outcome.message}"
            if lost not in self.degraded:
                self.degraded.append(lost)


def _heard(voice: Voice, outcome: Outcome) -> Outcome:
    """What a model that follows requests says of the image; a refusal, or nothing of the image, is a failure."""
    if not voice.info.chats or not isinstance(outcome, Generated):
        return outcome
    text = described(outcome.text)
    if outcome.text.strip() and not text:
        did = "refused to describe" if refuses(outcome.text) else "said nothing of"
        return CaptionRefused(f"The captioner {did} the image.")
    others = (replace(one, text=described(one.text)) for one in outcome.alternatives)
    return replace(outcome, text=text, alternatives=tuple(one for one in others if one.text))


def _failure(outcomes: Sequence[Outcome]) -> CaptionServeError | None:
    """Why a captioner gave nothing at all; None if it gave something."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, CaptionServeError)]
    return errors[0] if errors and len(errors) == len(outcomes) else None
