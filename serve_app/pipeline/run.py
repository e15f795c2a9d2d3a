"""From pixels to a caption over the Generator protocol."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from serve_app.deadline import Deadline
from serve_app.errors import (
    CaptionServeError,
    GenerationFailed,
    GeneratorUnavailable,
    InvalidOption,
    NotDeployed,
    ServiceError,
    WrongImageSize,
)
from serve_app.pipeline.asking import most_questions
from serve_app.pipeline.committee import SHARE, Committee, Member, Voice
from serve_app.pipeline.context import Context
from serve_app.pipeline.fingerprint import fingerprint
from serve_app.pipeline.presets import Presets
from serve_app.pipeline.registry import PLANS
from serve_app.pipeline.scores import PATIENCE_S, Support
from serve_app.steps import ONLY, SEVERAL, OnStep, Started, Work
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
    Picture,
    Pixels,
    Polisher,
    Size,
    Strategy,
)

PROBE_TIMEOUT_S = 60.0
LATE_START = "It started while the image was read."


class CaptionPipeline:
    """Captions images with a Generator and, if there is one, a Matcher; holds no state of a request."""

    def __init__(
        self,
        captioners: Generator | Committee,
        presets: Presets | None = None,
        matcher: Matcher | None = None,
        support: Support | None = None,
        polisher: Polisher | None = None,
        answerer: Answerer | None = None,
        answerer_name: str | None = None,
    ) -> None:
        self._answerer = answerer
        self._answerer_name = answerer_name
        self._committee = captioners if isinstance(captioners, Committee) else Committee([Member(ONLY, captioners)])
        self._presets = presets or Presets()
        self._unbeamed = self._presets.unbeamed()
        self._matcher = matcher
        self._weighs: Size | None = None
        """Size of the matcher's pictures, if it is known."""
        self._asked_matcher = False
        self._support = support or Support.of()
        self._polisher = polisher

    @property
    def captioners(self) -> tuple[str, ...]:
        """Names of the captioners, if there are several."""
        names = self._committee.names
        return () if names == (ONLY,) else names

    async def info(self) -> ModelInfo:
        """The first captioner that answers."""
        return next(iter((await self.infos()).values()))

    async def infos(self) -> dict[str, ModelInfo]:
        """The captioners that answer, by their names."""
        infos, _ = await self._committee.present(self._committee.members)
        return {member.name: info for member, info in infos.items()}

    async def sizes(self, options: CaptionOptions) -> tuple[Size, ...]:
        """At which sizes `caption` needs the image. Raises what `caption` raises."""
        deadline = Deadline.after(options.timeout_s)
        infos, _ = await self._committee.present(self._chosen(options), deadline)
        sizes = dict.fromkeys(info.size for info in infos.values())
        if PLANS[options.strategy].weighs and (weighs := await self._matcher_size(deadline)) is not None:
            sizes[weighs] = None
        return tuple(sizes)

    def _chosen(self, options: CaptionOptions) -> tuple[Member, ...]:
        return self._committee.chosen(options.use, PLANS[options.strategy].weighs)

    async def caption(
        self, picture: Pixels | Picture, options: CaptionOptions, on_step: OnStep | None = None
    ) -> CaptionResult:
        """Runs the strategy that `options` names, and calls `on_step` with each step as it is done.

        `picture` is the image at the size of each captioner's model (`sizes`), or at that of all.

        Raises `PromptTooLong` when no prompt fits, `DeadlineExceeded` and other `ServiceError`s when there is no text
        at all.
        """
        plan = PLANS[options.strategy]
        if (options.ask or options.questions) and not plan.weighs:
            raise InvalidOption("ask, questions: only the strategy grounded asks.")
        if self._answerer is None and (options.ask or options.questions):
            raise NotDeployed("ask, questions: no model answers questions here; the setting `answerer` turns it on.")
        start = time.perf_counter()
        infos, lost = await self._committee.present(self._chosen(options), Deadline.after(options.timeout_s))
        voices = self._committee.voices(infos, picture)
        if not voices:
            raise WrongImageSize("The captioners changed while the image was read; send it again.")
        context = Context(
            self._committee,
            voices,
            self._presets,
            self._seen(voices, picture),
            options,
            on_step,
            self._matcher,
            self._support.behind(len(voices)),
            self._polisher,
            self._answerer,
        )
        lost |= {member: LATE_START for member in infos if all(voice.member is not member for voice in voices)}
        context.degraded += [f"{member.name}: {reason}" for member, reason in lost.items()]
        prompts = [(voice, prompt) for voice in voices for prompt in plan.prompts(options, voice.info.prompts)]
        model = SEVERAL.join(voice.title for voice in voices)
        asked = tuple(prompt for _, prompt in prompts)
        context.tell(Started(model, asked, plan.rounds(options), tuple(voice.title for voice, _ in prompts)))
        draft = await plan.run(context)
        matcher = await self._matcher_info() if draft.matched else None
        return CaptionResult(
            caption=draft.caption,
            model=model,
            seed=options.seed,
            variants=draft.variants,
            rounds=draft.rounds,
            clauses=draft.clauses,
            contested=draft.contested,
            answers=draft.answers,
            degraded=tuple(context.degraded),
            notices=draft.notices,
            timings_ms={**context.timings_ms, "total": (time.perf_counter() - start) * 1000},
            fingerprint=self._fingerprint(options.strategy, [voice.info for voice in context.present], matcher),
        )

    def _seen(self, voices: Sequence[Voice], picture: Pixels | Picture) -> Pixels:
        """The picture for matcher and answerer, which resize what has another size."""
        found = None if isinstance(picture, Pixels) or self._weighs is None else picture.get(self._weighs)
        return found or voices[0].pixels

    async def _matcher_size(self, deadline: Deadline) -> Size | None:
        """None if the matcher does not say; a lost one is waited for once."""
        if self._weighs is None and not self._asked_matcher:
            self._asked_matcher = True
            with contextlib.suppress(ServiceError):
                async with Deadline.after(min(PATIENCE_S, SHARE * deadline.left_s)).enforced("No matcher answered."):
                    await self._matcher_info()
        return self._weighs

    async def _matcher_info(self) -> ModelInfo | None:
        matcher: object = self._matcher
        if not isinstance(matcher, HasInfo):
            return None
        info = await matcher.info()
        self._weighs = info.size
        return info

    async def fingerprint(self, strategy: Strategy, use: Sequence[str] = ()) -> str:
        """What makes the captions of a strategy of all captioners, or of those in `use`, as long as nothing is lost.

        Raises `GeneratorUnavailable` if one of them does not answer."""
        weighs = PLANS[strategy].weighs
        infos, lost = await self._committee.present(self._committee.chosen(use, weighs))
        if lost:
            raise GeneratorUnavailable(f"The captioner {next(iter(lost)).name} does not answer.")
        return self._fingerprint(strategy, list(infos.values()), await self._matcher_info() if weighs else None)

    def _fingerprint(self, strategy: Strategy, captioners: Sequence[ModelInfo], matcher: ModelInfo | None) -> str:
        polisher = self._polisher.model if self._polisher is not None else None
        return fingerprint(strategy, captioners, matcher, self._support, self._presets, polisher, self._answerer_name)

    def work(self, options: CaptionOptions) -> Work:
        """Rows that each captioner decodes for the request, a question counting as one of the first one's: what
        admission and capacity count. Raises `InvalidOption`."""
        plan = PLANS[options.strategy]
        asks = self._answerer is not None and self._matcher is not None and plan.weighs and options.ask is not False
        work = {}
        chosen = self._chosen(options)
        for member in [each for each in chosen if not each.is_away] or chosen:
            known, presets = member.known, self._presets if member.beams else self._unbeamed
            prompted = plan.rounds(options) if not asks and (known is None or known.continues) else 1
            prompts = plan.prompts(options, known.prompts if known is not None else ())
            work[member.name] = plan.work(len(prompts), prompted, presets)
        questions = most_questions(options) if asks else len(options.questions) if self._answerer is not None else 0
        if questions and plan.weighs:
            work[next(iter(work))] += questions
        return work

    def check_health(self) -> None:
        """Raises `GeneratorUnavailable` if an engine of this process is lost for good."""
        for member in self._committee.members:
            if (check := getattr(member.generator, "check_health", None)) is not None:
                check()

    async def probe(self) -> None:
        """Generates two tokens for a grey image; raises when that works with no captioner."""
        tasks = [asyncio.ensure_future(_probed(member)) for member in self._committee.members]
        errors: list[CaptionServeError] = []
        try:
            for ended in asyncio.as_completed(tasks):
                try:
                    await ended
                except CaptionServeError as error:
                    errors.append(error)
                else:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        raise errors[0]


async def _probed(member: Member) -> None:
    model = await member.info()
    data = bytes([127]) * (model.image_height * model.image_width * 3)
    grey = Pixels("probe", model.image_height, model.image_width, data)
    job = GenerateJob("", GenerationParameters(max_new_tokens=2, num_beams=1, do_sample=False))
    outcomes = await member.generator.generate(grey, [job], PROBE_TIMEOUT_S)
    if not outcomes:
        raise GenerationFailed("The generator returned nothing.")
    if isinstance(outcomes[0], Exception):
        raise outcomes[0]
