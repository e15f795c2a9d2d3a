"""Paths as the routes know them."""

from __future__ import annotations

from starlette.types import Scope

CAPTIONS = "/v1/captions"
"""The route for one image."""
BATCH = f"{CAPTIONS}/batch"
"""The route for several images."""
MCP = "/mcp"
"""The route for agents."""


def route_path(scope: Scope) -> str:
    """The request's path below the application's prefix."""
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
