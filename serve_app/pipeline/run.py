"""From pixels to a caption over the Generator protocol."""

from __future__ import annotations

import time
from dataclasses import replace

from serve_app.errors import GenerationFailed, InvalidOption, NotDeployed
from serve_app.pipeline.asking import most_questions
from serve_app.pipeline.context import Context
from serve_app.pipeline.fingerprint import fingerprint
from serve_app.pipeline.presets import Presets
from serve_app.pipeline.registry import PLANS
from serve_app.pipeline.scores import Support
from serve_app.steps import OnStep, Started
from serve_app.task_types import Answerer
from serve_app.types import (
    CaptionOptions,
    CaptionResult,
    GenerateJob,
    GenerationParameters,
    Generator,
    HasInfo,
    Matcher,
    ModelInfo,
    Pixels,
    Polisher,
    Strategy,
)

PROBE_TIMEOUT_S = 60.0


def _asked(options: CaptionOptions, model: ModelInfo) -> CaptionOptions:
    """The options with the model's own prompts unless a request has its own."""
    return options if options.prompts or not model.prompts else replace(options, prompts=model.prompts)


class CaptionPipeline:
    """Captions images with a Generator and, if there is one, a Matcher; holds no state of a request."""

    def __init__(
        self,
        generator: Generator,
        presets: Presets | None = None,
        matcher: Matcher | None = None,
        support: Support | None = None,
        polisher: Polisher | None = None,
        answerer: Answerer | None = None,
        answerer_name: str | None = None,
    ) -> None:
        self._answerer = answerer
        self._answerer_name = answerer_name
        self._model: ModelInfo | None = None
        """What the captioner said of itself last."""
        self._generator = generator
        self._presets = presets or Presets()
        self._matcher = matcher
        self._support = support or Support.of()
        self._polisher = polisher

    async def info(self) -> ModelInfo:
        return await self._generator.info()

    async def caption(self, pixels: Pixels, options: CaptionOptions, on_step: OnStep | None = None) -> CaptionResult:
        """Runs the strategy that `options` names, and calls `on_step` with each step as it is done.

        Raises `PromptTooLong` when no prompt fits, `DeadlineExceeded` and other `ServiceError`s when there is no text
        at all.
        """
        plan = PLANS[options.strategy]
        if (options.ask or options.questions) and not plan.weighs:
            raise InvalidOption("ask, questions: only the strategy grounded asks.")
        if self._answerer is None and (options.ask or options.questions):
            raise NotDeployed("ask, questions: no model answers questions here; the setting `answerer` turns it on.")
        start = time.perf_counter()
        model = await self._generator.info()
        self._model = model
        options = _asked(options, model)
        context = Context(
            self._generator,
            self._presets,
            pixels,
            options,
            on_step,
            self._matcher,
            self._support,
            self._polisher,
            self._answerer,
            model.continues,
        )
        context.tell(Started(model.name, plan.prompts(options), plan.rounds(options)))
        draft = await plan.run(context)
        fingerprint = await self.fingerprint(options.strategy, matched=draft.matched)
        return CaptionResult(
            caption=draft.caption,
            model=model.name,
            seed=options.seed,
            variants=draft.variants,
            rounds=draft.rounds,
            clauses=draft.clauses,
            contested=draft.contested,
            answers=draft.answers,
            degraded=tuple(context.degraded),
            notices=draft.notices,
            timings_ms={**context.timings_ms, "total": (time.perf_counter() - start) * 1000},
            fingerprint=fingerprint,
        )

    async def fingerprint(self, strategy: Strategy, *, matched: bool = True) -> str:
        """What makes the captions of a strategy; `matched` says whether the matcher takes part, if there is one."""
        matcher = self._matcher if PLANS[strategy].weighs and matched else None
        return fingerprint(
            strategy,
            await self._generator.info(),
            await matcher.info() if isinstance(matcher, HasInfo) else None,
            self._support,
            self._presets,
            self._polisher.model if self._polisher is not None else None,
            self._answerer_name,
        )

    def work(self, options: CaptionOptions) -> int:
        """Rows that the request decodes, a question counting as one: what admission and capacity count."""
        plan = PLANS[options.strategy]
        if self._model is not None:
            options = _asked(options, self._model)
        continues = self._model is None or self._model.continues
        prompted = options if continues else replace(options, rounds=1)
        if self._answerer is None or not plan.weighs:
            return plan.work(prompted, self._presets)
        if self._matcher is None or options.ask is False:
            return plan.work(prompted, self._presets) + len(options.questions)
        return plan.work(replace(options, rounds=1), self._presets) + most_questions(options)

    async def probe(self) -> None:
        """Generates two tokens for a grey image; raises when that does not work."""
        model = await self._generator.info()
        data = bytes([127]) * (model.image_height * model.image_width * 3)
        grey = Pixels("probe", model.image_height, model.image_width, data)
        job = GenerateJob("", GenerationParameters(max_new_tokens=2, num_beams=1, do_sample=False))
        outcomes = await self._generator.generate(grey, [job], PROBE_TIMEOUT_S)
        if not outcomes:
            raise GenerationFailed("The generator returned nothing.")
        if isinstance(outcomes[0], Exception):
            raise outcomes[0]
