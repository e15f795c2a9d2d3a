"""All that knows Ray Serve: thin wrappers, their options, and the request router."""

from serve_app.deployments.build import build
from serve_app.deployments.page import build_page

__all__ = ["build", "build_page"]
