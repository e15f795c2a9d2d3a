"""The shapes of OpenAI's chat API, as far as a caption can honour them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from serve_app.options import offered

MAX_CHOICES = 8
MAX_MESSAGES = 1000
MAX_PARTS = 1000
MAX_SEED = 2**62
"""Choices count up from the seed, and stay within 63 bits."""


class ImageUrl(BaseModel):
    url: str = Field(description="data URI, or an http(s) URL if the service fetches those")
    detail: Literal["auto", "low", "high"] | None = Field("auto", description="low is faster, high says more")


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]
PARTS: TypeAdapter[list[TextPart | ImagePart]] = TypeAdapter(list[Part])
"""Of the message whose images are captioned. Other messages may have parts of any kind, which are not looked at."""


class ChatMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[dict[str, Any]], Field(max_length=MAX_PARTS)] | None = Field(
        None, description="text, or parts of type text and image_url"
    )


class StreamOptions(BaseModel):
    include_usage: bool | None = None


_Options: Any = create_model(
    "_Options",
    **{name: (field.annotation, field) for name, field in offered("chat").items()},  # type: ignore[call-overload]
)


class ChatRequest(_Options):
    """What is not named here (temperature, top_p, stop, user, …) is taken and ignored: captions have presets."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    model: str = Field(description='the served model, or "caption-serve"')
    messages: list[ChatMessage] = Field(
        min_length=1,
        max_length=MAX_MESSAGES,
        description="the images of the last user message that has any are captioned; its text is an extra prompt",
    )
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="choices, with seed, seed + 1, …")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    max_words: int | None = Field(None, ge=1, description="most words of each caption")
    max_tokens: int | None = Field(None, ge=1, description="longest answer, in words; its captions share them")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class Usage(BaseModel):
    """Words: the service counts no tokens of its models here."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class Completion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None


class Chunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "caption-serve"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
