"""Python client for the HTTP API; needs httpx and pydantic only."""

from serve_app.client.aio import AsyncCaptionServe
from serve_app.client.errors import ServiceUnreachable, UnexpectedAnswer
from serve_app.client.options import CaptionArguments
from serve_app.client.sync import CaptionServe

__all__ = ["AsyncCaptionServe", "CaptionArguments", "CaptionServe", "ServiceUnreachable", "UnexpectedAnswer"]
