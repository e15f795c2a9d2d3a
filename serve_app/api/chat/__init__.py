"""The OpenAI-compatible door: `/v1/chat/completions` and `/v1/models`."""

from serve_app.api.chat.errors import is_chat, refuse
from serve_app.api.chat.routes import router
from serve_app.api.chat.schemas import ChatRequest

__all__ = ["ChatRequest", "is_chat", "refuse", "router"]
