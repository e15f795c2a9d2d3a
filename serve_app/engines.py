"""The engines that an application's settings ask for, started in this process.

torch and transformers are imported when an engine starts: the ingress and the command line's help need neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from serve_app.args import AppArgs
from serve_app.instant import INFO, InstantGenerator
from serve_app.steps import ONLY
from serve_app.tasks import ModelRole
from serve_app.types import Generator, ModelInfo

if TYPE_CHECKING:
    from serve_app.engine import AnswerEngine, MatchEngine
    from serve_app.remote import RemoteGenerator


class CaptionEngine(Generator, Protocol):
    """A Generator that has to be watched and closed."""

    def check_health(self) -> None: ...

    def close(self) -> None: ...


def start_captioners(args: AppArgs) -> dict[str, CaptionEngine]:
    """All captioners by their names. Raises `ModelError`s."""
    return {name: start_captioner(each, name) for name, each in args.each().items()}


def start_captioner(args: AppArgs, name: str = ONLY) -> CaptionEngine:
    """One captioner by its own settings. Raises `ModelError`s."""
    if args.engine == "instant":
        return InstantGenerator(args.instant_delay_s)
    if args.engine == "openai":
        return _remote(args, name)
    from serve_app.engine import open_captioner

    _set_threads(args)
    limits = args.engine_limits()
    return open_captioner(
        args.model,
        args.engine,
        limits,
        revision=args.revision,
        dtype=args.dtype,
        device=args.device,
        prompts=args.variant_prompts,
    )


def start_matcher(args: AppArgs) -> MatchEngine | None:
    """The matcher, if there is one. Raises `ModelError`s."""
    if args.matcher is None:
        return None
    from serve_app import engine

    _set_threads(args)
    loaded = engine.load_matcher(args.matcher, **_as_set(args, args.matcher_revision))
    return engine.start_matcher(loaded, args.engine_limits())


def start_answerer(args: AppArgs) -> AnswerEngine | None:
    """The answerer, if there is one. Raises `ModelError`s."""
    if args.answerer is None:
        return None
    from serve_app import engine

    _set_threads(args)
    loaded = engine.load_answerer(args.answerer, **_as_set(args, args.answerer_revision))
    return engine.start_answerer(loaded, args.engine_limits())


START: Mapping[ModelRole, Callable[[AppArgs], MatchEngine | AnswerEngine | None]] = {
    "matcher": start_matcher,
    "answerer": start_answerer,
}


def model_files(args: AppArgs) -> tuple[list[ModelInfo], ModelInfo | None]:
    """What the files of the captioners and of the matcher beside them say. Raises `ModelError`s."""
    captioners = [_captioner_info(each) for each in args.each().values()]
    if args.matcher is None or args.engine == "instant":
        return captioners, None
    from serve_app.engine import MATCHING, file_info

    return captioners, file_info(args.matcher, args.matcher_revision, MATCHING)


def _captioner_info(args: AppArgs) -> ModelInfo:
    if args.engine == "instant":
        return INFO
    if args.engine == "openai":
        from serve_app.remote import info_of

        assert args.captioner_url is not None, "the settings go together"
        return info_of(args.captioner_url, args.model)
    from serve_app.engine import captioner_info

    return captioner_info(args.model, args.revision, args.variant_prompts)


def _remote(args: AppArgs, name: str) -> RemoteGenerator:
    from serve_app.remote import RemoteGenerator, key_of  # brings the chat client

    assert args.captioner_url is not None, "the settings go together"
    return RemoteGenerator(args.captioner_url, args.model, key_of(name, os.environ), args.captioner_concurrency)


def _as_set(args: AppArgs, revision: str | None) -> dict[str, Any]:
    return {"revision": revision, "dtype": args.task_dtype, "device": args.device}


def _set_threads(args: AppArgs) -> None:
    if args.torch_threads is not None:
        import torch

        torch.set_num_threads(args.torch_threads)
