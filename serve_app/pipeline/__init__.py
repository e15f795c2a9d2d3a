"""The caption algorithm in pure Python, over the protocols of `serve_app.types`."""

from serve_app.pipeline.presets import Presets
from serve_app.pipeline.run import CaptionPipeline

__all__ = ["CaptionPipeline", "Presets"]
