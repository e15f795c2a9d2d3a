"""The caption service in this process, without a cluster."""

from __future__ import annotations

from serve_app.api import CaptionService, TaskService
from serve_app.args import AppArgs
from serve_app.engine import (
    AnswerEngine,
    MatchEngine,
    load,
    load_answerer,
    load_matcher,
    start,
    start_answerer,
    start_matcher,
)
from serve_app.instant import InstantGenerator
from serve_app.pipeline import CaptionPipeline
from serve_app.types import Generator
from serve_app.wiring import pipeline_of


def local_service(args: AppArgs) -> CaptionService:
    """Loads the models here and now. Raises `ModelError`s, and `InvalidOption` for presets that don't fit."""
    return CaptionService(captioner_of(args, matcher_of(args)), args.limits())


def local_services(args: AppArgs) -> tuple[CaptionService, TaskService]:
    """The same with questions and matching, as far as `args` names models for them."""
    matcher = matcher_of(args)
    captions = CaptionService(captioner_of(args, matcher), args.limits())
    return captions, TaskService(captions, matcher, _answerer(args))


def captioner_of(args: AppArgs, matcher: MatchEngine | None) -> CaptionPipeline:
    """As `local_service`, for pixels that are read elsewhere."""
    return pipeline_of(args, _generator(args), matcher)


def matcher_of(args: AppArgs) -> MatchEngine | None:
    """Raises `ModelError`s."""
    if args.matcher is None or args.engine == "instant":
        return None
    loaded = load_matcher(args.matcher, revision=args.matcher_revision, dtype=args.task_dtype, device=args.device)
    return start_matcher(loaded, args.engine_limits())


def _answerer(args: AppArgs) -> AnswerEngine | None:
    if args.answerer is None:
        return None
    loaded = load_answerer(args.answerer, revision=args.answerer_revision, dtype=args.task_dtype, device=args.device)
    return start_answerer(loaded, args.engine_limits())


def _generator(args: AppArgs) -> Generator:
    if args.engine == "instant":
        return InstantGenerator(args.instant_delay_s)
    loaded = load(args.model, revision=args.revision, dtype=args.dtype, device=args.device)
    return start(loaded, args.engine, args.engine_limits())
