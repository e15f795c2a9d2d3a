"""The shapes of OpenAI's chat API, as far as a caption can honour them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, create_model

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


def _as_object(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_as_object)] = Field(description="the URL itself is taken, too")


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


class JsonSchema(BaseModel):
    name: str | None = None
    schema_: dict[str, Any] = Field(default_factory=dict, alias="schema")


class ResponseFormat(BaseModel):
    """Text, an object with the member `caption` (`answer` to a question), or the string members of a schema that stand
    for one."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None


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
        description="the images of the last user message that has any are captioned, or asked about if the last user "
        "message is a question; lengths that texts name are kept",
    )
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="choices, with seed, seed + 1, …")
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    max_words: int | None = Field(None, ge=1, description="most words of each caption")
    max_tokens: int | None = Field(None, ge=1, description="longest answer, in words; its captions share them")
    max_completion_tokens: int | None = Field(None, ge=1, description="the same")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None


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
    system_fingerprint: str | None = None
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
    system_fingerprint: str | None = None
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
    captioners: list[str] = Field(default_factory=list, description="those behind it, where there are several")


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
