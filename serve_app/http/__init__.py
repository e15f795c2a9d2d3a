"""The HTTP API over a caption service: routes, request bodies, middleware, OpenAI's and MCP's endpoints."""

from serve_app.http.app import create_app

__all__ = ["create_app"]
