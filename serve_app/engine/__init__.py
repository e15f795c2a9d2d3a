"""Running BLIP: checkpoints, loading, and the engines behind the Generator, Matcher and Answerer protocols."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when the hub's library is imported below

from serve_app.engine import blip
from serve_app.engine.answering import AnswerEngine
from serve_app.engine.async_engine import AsyncEngine
from serve_app.engine.blip import CAPTIONING, MATCHING
from serve_app.engine.captioners import captioner_info, check_captioner, open_captioner, taken
from serve_app.engine.counters import Counters
from serve_app.engine.loading import Loaded, LoadedModel, file_info, load, load_answerer, load_matcher
from serve_app.engine.matching import MatchEngine
from serve_app.engine.reference import ReferenceGenerator
from serve_app.types import EngineLimits, EngineName

__all__ = [
    "CAPTIONING",
    "MATCHING",
    "AnswerEngine",
    "AsyncEngine",
    "Counters",
    "Loaded",
    "MatchEngine",
    "ReferenceGenerator",
    "captioner_info",
    "check_captioner",
    "file_info",
    "load",
    "load_answerer",
    "load_matcher",
    "open_captioner",
    "start",
    "start_answerer",
    "start_matcher",
    "taken",
]


def start(
    loaded: Loaded, engine: EngineName = "decode", limits: EngineLimits | None = None
) -> AsyncEngine | ReferenceGenerator:
    """Starts the engine of that name on a loaded BLIP captioner, which it takes over. Raises `ModelError`s."""
    return AsyncEngine(loaded, limits) if engine == "decode" else ReferenceGenerator(loaded)


def start_matcher(loaded: LoadedModel[blip.Retriever], limits: EngineLimits | None = None) -> MatchEngine:
    """Starts matching on a loaded model, which it takes over."""
    return MatchEngine(loaded, (limits or EngineLimits()).max_image_cache_bytes)


def start_answerer(loaded: LoadedModel[blip.Answerer], limits: EngineLimits | None = None) -> AnswerEngine:
    """Starts answering on a loaded model, which it takes over."""
    return AnswerEngine(loaded, (limits or EngineLimits()).max_image_cache_bytes)
