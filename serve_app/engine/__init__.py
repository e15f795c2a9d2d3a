"""Running BLIP: checkpoints, loading, and the engines behind the Generator protocol."""

from serve_app.engine.loading import Loaded, load
from serve_app.engine.reference import ReferenceGenerator

__all__ = ["Loaded", "ReferenceGenerator", "load"]
