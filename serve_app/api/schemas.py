"""The HTTP contract's bodies, and the one place where options are validated."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from serve_app.errors import InvalidOption
from serve_app.types import (
    MAX_ROUNDS,
    ROUNDS_BY_DETAIL,
    CaptionOptions,
    CaptionResult,
    Detail,
    Limits,
    Strategy,
)

MAX_SEED = 2**63 - 1

Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Options(BaseModel):
    """What a caption request may ask for; everything has a default."""

    model_config = ConfigDict(extra="forbid")

    detail: Detail | None = Field(None, description="low = 1 round, medium = 2, high = 3 (default)")
    multi_round: bool | None = Field(None, description="false = 1 round")
    rounds: int | None = Field(None, ge=1, le=MAX_ROUNDS, description="rounds, instead of `detail`")
    strategy: Strategy | None = Field(None, description="basic = one short caption; classic = the whole algorithm")
    prompts: list[Prompt] | None = Field(None, min_length=1, description="variant prompts, instead of the presets'")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="same request and seed, same answer")
    timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds; then the best caption so far"
    )

    def resolve(self, limits: Limits) -> CaptionOptions:
        """Fills in the defaults. Raises `InvalidOption` beyond the service's limits."""
        prompts = tuple(self.prompts or ())
        if len(prompts) > limits.max_prompts:
            raise InvalidOption(f"prompts: {len(prompts)} were given; at most {limits.max_prompts} are accepted.")
        if any(len(prompt) > limits.max_prompt_characters for prompt in prompts):
            raise InvalidOption(f"prompts: at most {limits.max_prompt_characters} characters each are accepted.")
        timeout_s = self.timeout_s or limits.default_timeout_s
        if timeout_s > limits.max_timeout_s:
            raise InvalidOption(f"timeout_s: at most {limits.max_timeout_s:g} seconds are accepted.")
        return CaptionOptions(
            strategy=self.strategy or limits.default_strategy,
            rounds=self._rounds(limits),
            prompts=prompts,
            seed=limits.default_seed if self.seed is None else self.seed,
            timeout_s=timeout_s,
        )

    def _rounds(self, limits: Limits) -> int:
        if self.multi_round is False:
            if (self.rounds or 1) > 1:
                raise InvalidOption("multi_round: false means one round, and rounds asks for more.")
            return 1
        return self.rounds or ROUNDS_BY_DETAIL[self.detail or limits.default_detail]


def parse_options(values: dict[str, Any], limits: Limits) -> CaptionOptions:
    """Validates options from any door. Raises `InvalidOption` that names the first offending one."""
    try:
        return Options.model_validate(values).resolve(limits)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))[:80] or "options"
        if first["type"] == "extra_forbidden":
            known = ", ".join(Options.model_fields)
            raise InvalidOption(f"{name}: there is no such option; the options are {known}.") from error
        raise InvalidOption(f"{name}: {first['msg']}.") from error


class Stats(BaseModel):
    characters: int
    words: int


class VariantBody(BaseModel):
    prompt: str
    text: str
    score: float | None = Field(description="match score; null without a matcher")


class RoundBody(BaseModel):
    round: int
    text: str
    accepted: bool


class ClauseBody(BaseModel):
    text: str
    source: str = Field(description='for example "variant 3", "extension 1", "round 2"')
    score: float | None = Field(description="match score; null without a matcher")


class CaptionBody(BaseModel):
    """A caption, its parts and how long they took (milliseconds)."""

    id: str
    model: str
    caption: str
    stats: Stats
    variants: list[VariantBody]
    rounds: list[RoundBody]
    clauses: list[ClauseBody]
    degraded: list[str] = Field(description="what is missing from this answer and why; empty when nothing is")
    seed: int
    timings_ms: dict[str, float]

    @classmethod
    def of(cls, result: CaptionResult, request_id: str, intake_ms: float) -> CaptionBody:
        timings = {"intake": intake_ms, **result.timings_ms}
        timings["total"] = intake_ms + result.timings_ms.get("total", 0.0)
        return cls(
            id=request_id,
            model=result.model,
            caption=result.caption,
            stats=Stats(characters=len(result.caption), words=len(result.caption.split())),
            variants=[VariantBody(prompt=v.prompt, text=v.text, score=v.score) for v in result.variants],
            rounds=[RoundBody(round=r.round, text=r.text, accepted=r.accepted) for r in result.rounds],
            clauses=[ClauseBody(text=c.text, source=c.source, score=c.score) for c in result.clauses],
            degraded=list(result.degraded),
            seed=result.seed,
            timings_ms={step: round(ms, 1) for step, ms in timings.items()},
        )


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    request_id: str
