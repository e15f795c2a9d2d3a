"""The caption service in this process, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence

from serve_app.args import AppArgs
from serve_app.engines import model_files, start_answerer, start_captioners, start_matcher
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, TaskService
from serve_app.types import Matcher, Strategy
from serve_app.wiring import fingerprint_of, pipeline_of


def local_service(args: AppArgs) -> CaptionService:
    """Loads the models here and now. Raises `ModelError`s, and `InvalidOption` for presets that don't fit."""
    return CaptionService(local_pipeline(args)[0], args.limits())


def local_services(args: AppArgs) -> tuple[CaptionService, TaskService]:
    """The same with questions and matching, as far as `args` names models for them."""
    matcher, answerer = start_matcher(args), start_answerer(args)
    captions = CaptionService(pipeline_of(args, start_captioners(args), matcher, answerer, patient=True), args.limits())
    return captions, TaskService(captions, matcher, answerer)


def fingerprint(args: AppArgs, strategy: Strategy, use: Sequence[str] = ()) -> str:
    """What makes the captions of `local_pipeline`, by the models' files; none is loaded. Raises `ModelError`s."""
    return fingerprint_of(args, strategy, *model_files(args), use)


def local_pipeline(args: AppArgs) -> tuple[CaptionPipeline, Matcher | None]:
    """The pipeline and its matcher, for pixels that are read elsewhere."""
    matcher, answerer = (None, None) if args.engine == "instant" else (start_matcher(args), start_answerer(args))
    return pipeline_of(args, start_captioners(args), matcher, answerer, patient=True), matcher
