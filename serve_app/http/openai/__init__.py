"""The OpenAI-compatible endpoints: `/v1/chat/completions`, `/v1/responses` and `/v1/models`."""

from serve_app.http.openai.errors import is_chat, refuse
from serve_app.http.openai.responses import ResponsesRequest
from serve_app.http.openai.routes import router
from serve_app.http.openai.schemas import ChatRequest

__all__ = ["ChatRequest", "ResponsesRequest", "is_chat", "refuse", "router"]
