"""Running BLIP: checkpoints, loading, and the engines behind the Generator protocol."""

import os

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when the hub's library is imported below

from serve_app.engine.loading import Loaded, load
from serve_app.engine.reference import ReferenceGenerator

__all__ = ["Loaded", "ReferenceGenerator", "load"]
