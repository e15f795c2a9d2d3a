"""The one place where options are validated, and the contract's bodies from the pipeline's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.contract import (
    CaptionBody,
    ClauseBody,
    ContestedBody,
    ExtensionEvent,
    MergeEvent,
    RoundBody,
    RoundEvent,
    SourceBody,
    StartEvent,
    Stats,
    StepEvent,
    VariantBody,
    VariantEvent,
)
from serve_app.errors import InvalidOption
from serve_app.steps import Extended, Merged, Started, Step, VariantDone
from serve_app.types import (
    MAX_ROUNDS,
    MIN_CHARACTERS,
    ROUNDS_BY_DETAIL,
    STRATEGY,
    CaptionOptions,
    CaptionResult,
    Clause,
    Detail,
    Limits,
    Round,
    Strategy,
)

MAX_SEED = 2**63 - 1

M = TypeVar("M", bound=BaseModel)

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Options(BaseModel):
    """What a caption request may ask for; everything has a default."""

    model_config = ConfigDict(extra="forbid")

    detail: Detail | None = Field(None, description="low = 1 round, medium = 2, high = 3 (default)")
    multi_round: bool | None = Field(None, description="false = 1 round")
    rounds: int | None = Field(None, ge=1, le=MAX_ROUNDS, description="rounds, instead of `detail`")
    strategy: Strategy | None = Field(None, description=STRATEGY)
    prompts: list[Prompt] | None = Field(None, min_length=1, description="variant prompts, instead of the presets'")
    extra_prompts: list[Prompt] | None = Field(None, description="variant prompts besides the others")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same request and seed, same answer")
    max_words: int | None = Field(
        None,
        ge=1,
        description="most words of the caption: the best supported statements that fit, in whole sentences; "
        "`notices` says so where a single statement is longer",
    )
    max_characters: int | None = Field(None, ge=MIN_CHARACTERS, description="most characters of the caption, likewise")
    tidy: bool = Field(True, description="false: basic and classic give their reference's text to the letter")
    timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds; then the best caption so far"
    )

    def resolve(self, limits: Limits) -> CaptionOptions:
        """Fills in the defaults. Raises `InvalidOption` beyond the service's limits."""
        prompts, extra_prompts = tuple(self.prompts or ()), tuple(self.extra_prompts or ())
        for name, given in (("prompts", prompts), ("extra_prompts", (*prompts, *extra_prompts))):
            if len(given) > limits.max_prompts:
                raise InvalidOption(f"{name}: {len(given)} were given; at most {limits.max_prompts} are accepted.")
            if any(len(prompt) > limits.max_prompt_characters for prompt in given):
                raise InvalidOption(f"{name}: at most {limits.max_prompt_characters} characters each are accepted.")
        timeout_s = self.timeout_s or limits.default_timeout_s
        if timeout_s > limits.max_timeout_s:
            raise InvalidOption(f"timeout_s: at most {limits.max_timeout_s:g} seconds are accepted.")
        return CaptionOptions(
            strategy=self.strategy or limits.default_strategy,
            rounds=self._rounds(limits),
            prompts=prompts,
            seed=limits.default_seed if self.seed is None else self.seed,
            timeout_s=timeout_s,
            extra_prompts=extra_prompts,
            max_words=self.max_words,
            max_characters=self.max_characters,
            tidy=self.tidy,
        )

    def _rounds(self, limits: Limits) -> int:
        if self.multi_round is False:
            if (self.rounds or 1) > 1:
                raise InvalidOption("multi_round: false means one round, and rounds asks for more.")
            return 1
        return self.rounds or ROUNDS_BY_DETAIL[self.detail or limits.default_detail]


def parse_options(values: dict[str, Any], limits: Limits) -> CaptionOptions:
    """Validates options from any door. Raises `InvalidOption` that names the first offending one."""
    return validated(Options, values).resolve(limits)


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The values as `model`. Raises `InvalidOption` that names the first offending one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))[:80] or "options"
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise InvalidOption(f"{name}: there is no such option; the options are {known}.") from error
        raise InvalidOption(f"{name}: {first['msg']}.") from error


def caption_body(result: CaptionResult, request_id: str, intake_ms: float) -> CaptionBody:
    """The answer's body; `intake_ms` is what came before the pipeline."""
    timings = {"intake": intake_ms, **result.timings_ms}
    timings["total"] = intake_ms + result.timings_ms.get("total", 0.0)
    return CaptionBody(
        id=request_id,
        model=result.model,
        caption=result.caption,
        stats=Stats(characters=len(result.caption), words=len(result.caption.split())),
        variants=[VariantBody(prompt=v.prompt, text=v.text, score=v.score) for v in result.variants],
        rounds=[RoundBody(round=r.round, text=r.text, accepted=r.accepted) for r in result.rounds],
        clauses=[_clause_body(clause, result.model) for clause in result.clauses],
        contested=[ContestedBody(**asdict(contested)) for contested in result.contested],
        degraded=list(result.degraded),
        notices=list(result.notices),
        seed=result.seed,
        timings_ms={step: round(ms, 1) for step, ms in timings.items()},
    )


def _clause_body(clause: Clause, model: str) -> ClauseBody:
    values = asdict(clause)
    source = values.pop("source")
    return ClauseBody(**values, source=SourceBody(**{**source, "captioner": clause.source.captioner or model}))


def step_event(step: Step, request_id: str, options: CaptionOptions) -> StepEvent:
    """The event that tells of a step."""
    match step:
        case Started():
            return StartEvent(
                id=request_id,
                model=step.model,
                strategy=options.strategy,
                prompts=list(step.prompts),
                rounds=step.rounds,
                seed=options.seed,
            )
        case VariantDone():
            variant = step.variant
            return VariantEvent(index=step.index, prompt=variant.prompt, text=variant.text, score=variant.score)
        case Merged():
            return MergeEvent(text=step.text)
        case Extended():
            return ExtensionEvent(text=step.text, accepted=step.accepted)
        case Round():
            return RoundEvent(round=step.round, text=step.text, accepted=step.accepted)
