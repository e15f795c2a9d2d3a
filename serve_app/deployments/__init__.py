"""All that knows Ray Serve: thin wrappers, their options, and the request router."""

from serve_app.deployments.build import build

__all__ = ["build"]
