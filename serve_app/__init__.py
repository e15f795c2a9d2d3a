"""Detailed image captions from BLIP, fanned out on Ray Serve."""

__version__ = "0.1.0"
