"""The caption pipeline of an application's settings, for the service and for commands without one."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from serve_app.args import AppArgs
from serve_app.pipeline import CaptionPipeline, Committee, Member, Presets, Support, fingerprint
from serve_app.pipeline.registry import PLANS
from serve_app.task_types import Answerer
from serve_app.types import Generator, Matcher, ModelInfo, Polisher, Strategy


def presets_of(args: AppArgs) -> Presets:
    """The presets of these settings. Raises `InvalidOption` if they don't exist or don't fit the engine."""
    presets = Presets().override(args.presets)
    for each in args.each().values():
        presets.check_rows(each.max_rows)
    return presets


def pipeline_of(
    args: AppArgs,
    generators: Mapping[str, Generator],
    matcher: Matcher | None = None,
    answerer: Answerer | None = None,
    *,
    patient: bool = False,
) -> CaptionPipeline:
    """The pipeline over the captioners' generators by their names; a `patient` one waits for all of them, as far as
    half of a request's time goes. Raises `InvalidOption` as `presets_of` does."""
    members = [
        Member(name, generators[name], each.variant_prompts, beams=each.captioner_url is None)
        for name, each in args.each().items()
    ]
    committee = Committee(members, math.inf if patient else args.captioner_patience_s)
    return CaptionPipeline(
        committee, presets_of(args), matcher, _support(args), _polisher(args), answerer, _answerer(args)
    )


def fingerprint_of(
    args: AppArgs,
    strategy: Strategy,
    captioners: Sequence[ModelInfo],
    matcher: ModelInfo | None,
    use: Sequence[str] = (),
) -> str:
    """What makes the captions of that pipeline, of all captioners or of those in `use`, by what is known of them."""
    presets, support = presets_of(args), _support(args)
    models = [
        replace(info, prompts=each.variant_prompts) if each.variant_prompts else info
        for info, (name, each) in zip(captioners, args.each().items(), strict=True)
        if not use or name in use
    ]
    models = models if PLANS[strategy].weighs else models[:1]
    return fingerprint(strategy, models, matcher, support, presets, args.polish_model, _answerer(args))


def _answerer(args: AppArgs) -> str | None:
    return None if args.answerer is None else f"{args.answerer}@{args.answerer_revision or ''}"


def _support(args: AppArgs) -> Support:
    support = Support.of(args.matcher, next(iter(args.each().values())).model)
    return support if args.clause_floor is None else support.with_floor(args.clause_floor)


def _polisher(args: AppArgs) -> Polisher | None:
    if args.polish_url is None or args.polish_model is None:
        return None
    from serve_app.service.polish import KEY_VARIABLE, ChatPolisher  # brings the chat client

    return ChatPolisher(args.polish_url, args.polish_model, os.environ.get(KEY_VARIABLE), args.polish_timeout_s)
