"""The contract's bodies from the pipeline's values."""

from __future__ import annotations

from dataclasses import asdict

from serve_app.contract import (
    AnswerEvent,
    AskedBody,
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
from serve_app.steps import Answered, Extended, Merged, Started, Step, VariantDone
from serve_app.types import (
    CaptionOptions,
    CaptionResult,
    Clause,
    Round,
)


def caption_body(result: CaptionResult, request_id: str, intake_ms: float) -> CaptionBody:
    """The answer's body; `intake_ms` is what came before the pipeline."""
    timings = {"intake": intake_ms, **result.timings_ms}
    timings["total"] = intake_ms + result.timings_ms.get("total", 0.0)
    return CaptionBody(
        id=request_id,
        model=result.model,
        caption=result.caption,
        stats=Stats(characters=len(result.caption), words=len(result.caption.split())),
        variants=[
            VariantBody(prompt=v.prompt, text=v.text, score=v.score, captioner=v.captioner or result.model)
            for v in result.variants
        ],
        rounds=[RoundBody(round=r.round, text=r.text, accepted=r.accepted) for r in result.rounds],
        clauses=[_clause_body(clause, result.model) for clause in result.clauses],
        contested=[ContestedBody(**asdict(contested)) for contested in result.contested],
        answers=[
            AskedBody(**{**asdict(asked), "probability": round(asked.probability, 6)}) for asked in result.answers
        ],
        degraded=list(result.degraded),
        notices=list(result.notices),
        seed=result.seed,
        fingerprint=result.fingerprint,
        timings_ms={step: round(ms, 1) for step, ms in timings.items()},
    )


def _clause_body(clause: Clause, model: str) -> ClauseBody:
    values = asdict(clause)
    source = values.pop("source")
    return ClauseBody(**values, source=SourceBody(**{**source, "captioner": clause.source.captioner or model}))


def step_event(step: Step, request_id: str, options: CaptionOptions, model: str) -> StepEvent:
    """The event that reports a step of what `model` captions."""
    match step:
        case Started():
            return StartEvent(
                id=request_id,
                model=step.model,
                strategy=options.strategy,
                prompts=list(step.prompts),
                captioners=list(step.captioners),
                rounds=step.rounds,
                seed=options.seed,
            )
        case VariantDone():
            variant = step.variant
            return VariantEvent(
                index=step.index,
                prompt=variant.prompt,
                captioner=variant.captioner or model,
                text=variant.text,
                score=variant.score,
            )
        case Merged():
            return MergeEvent(text=step.text)
        case Extended():
            return ExtensionEvent(text=step.text, accepted=step.accepted)
        case Answered():
            asked = step.asked
            return AnswerEvent(
                index=step.index,
                question=asked.question,
                answer=asked.answer,
                probability=round(asked.probability, 6),
                statement=asked.statement,
            )
        case Round():
            return RoundEvent(round=step.round, text=step.text, accepted=step.accepted)
