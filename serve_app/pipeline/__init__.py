"""The caption algorithm in pure Python, over the protocols of `serve_app.types`."""

from serve_app.pipeline.committee import Committee, Member
from serve_app.pipeline.fingerprint import fingerprint
from serve_app.pipeline.presets import Presets
from serve_app.pipeline.run import CaptionPipeline
from serve_app.pipeline.scores import Support

__all__ = ["CaptionPipeline", "Committee", "Member", "Presets", "Support", "fingerprint"]
