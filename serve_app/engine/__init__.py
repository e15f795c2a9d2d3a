"""Running BLIP: checkpoints, loading, and the engines behind the Generator protocol."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when the hub's library is imported below

from serve_app.engine.async_engine import AsyncEngine
from serve_app.engine.counters import Counters
from serve_app.engine.loading import Loaded, image_size, load
from serve_app.engine.reference import ReferenceGenerator
from serve_app.types import EngineLimits, EngineName

__all__ = ["AsyncEngine", "Counters", "Loaded", "ReferenceGenerator", "image_size", "load", "start"]


def start(
    loaded: Loaded, engine: EngineName = "decode", limits: EngineLimits | None = None
) -> AsyncEngine | ReferenceGenerator:
    """Starts the engine of that name on a loaded model, which it takes over. Raises `ModelError`s."""
    return ReferenceGenerator(loaded) if engine == "reference" else AsyncEngine(loaded, limits)
