"""The caption service in this process, without a cluster."""

from __future__ import annotations

from serve_app.api import CaptionService
from serve_app.args import AppArgs
from serve_app.engine import load, start
from serve_app.instant import InstantGenerator
from serve_app.pipeline import CaptionPipeline, Presets
from serve_app.types import Generator


def local_service(args: AppArgs) -> CaptionService:
    """Loads the model here and now. Raises `ModelError`s, and `InvalidOption` for presets that don't fit."""
    return CaptionService(captioner_of(args), args.limits())


def captioner_of(args: AppArgs) -> CaptionPipeline:
    """As `local_service`, for pixels that are read elsewhere."""
    presets = Presets().override(args.presets)
    presets.check_rows(args.max_rows)
    return CaptionPipeline(_generator(args), presets)


def _generator(args: AppArgs) -> Generator:
    if args.engine == "instant":
        return InstantGenerator(args.instant_delay_s)
    loaded = load(args.model, revision=args.revision, dtype=args.dtype, device=args.device)
    return start(loaded, args.engine, args.engine_limits())
