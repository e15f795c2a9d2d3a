"""The OpenAI-compatible door: `/v1/chat/completions` and `/v1/models`."""

from serve_app.api.chat.errors import is_chat, refuse
from serve_app.api.chat.routes import router

__all__ = ["is_chat", "refuse", "router"]
