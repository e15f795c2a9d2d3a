"""`/v1/responses` for one turn: the chat's answer in the shape of OpenAI's newer API."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.errors import CaptionServeError, InvalidOption
from serve_app.http import problems
from serve_app.http.json_size import check_json_size
from serve_app.http.openai.errors import error_member
from serve_app.http.openai.request import invalid
from serve_app.http.openai.run import ChatAnswer
from serve_app.http.openai.schemas import MAX_MESSAGES, MAX_PARTS, ChatRequest
from serve_app.http.openai.stream import Running, log_bug
from serve_app.limits import Limits

_TEXTS = ("input_text", "output_text", "text")


class InputMessage(BaseModel):
    role: Literal["system", "developer", "user", "assistant"] = "user"
    content: str | list[dict[str, Any]] = Field(description="text, or parts of type input_text and input_image")


class ResponsesRequest(BaseModel):
    """What is not named here is taken and ignored."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    model: str = Field(description='the served model, or "caption-serve"')
    input: str | list[InputMessage] = Field(description="a text, or messages with images as input_image")
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1, description="longest answer, in words")
    text: dict[str, Any] | None = Field(None, description="`format` as in OpenAI's API")
    stream: bool | None = None


def parse(data: bytearray) -> ResponsesRequest:
    """Raises `InvalidRequest` and `InvalidOption`."""
    check_json_size(data)
    try:
        wanted = ResponsesRequest.model_validate_json(data)
    except ValidationError as error:
        raise invalid(error) from error
    for name in ("tools", "previous_response_id", "conversation", "background"):
        if (wanted.model_extra or {}).get(name):
            raise InvalidOption(f"{name}: not supported; send the whole turn.")
    return wanted


def as_chat(wanted: ResponsesRequest) -> ChatRequest:
    """The same as a chat. Raises `InvalidRequest`."""
    given = [InputMessage(content=wanted.input)] if isinstance(wanted.input, str) else wanted.input
    messages = [{"role": each.role, "content": _content(each.content)} for each in given[: MAX_MESSAGES + 1]]
    if wanted.instructions:
        messages.insert(0, {"role": "system", "content": wanted.instructions})
    form = (wanted.text or {}).get("format") or {}
    if not isinstance(form, dict):
        raise InvalidOption("text.format: an object with a type is needed.")
    if form.get("type") == "json_schema":
        form = {"type": "json_schema", "json_schema": {"name": form.get("name"), "schema": form.get("schema") or {}}}
    values = {
        "model": wanted.model,
        "messages": messages,
        "max_completion_tokens": wanted.max_output_tokens,
        "response_format": form or None,
        "stream": wanted.stream,
    }
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from error


def _content(content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts = []
    for part in content[: MAX_PARTS + 1]:
        if part.get("type") in _TEXTS:
            parts.append({"type": "text", "text": part.get("text")})
        elif part.get("type") == "input_image":
            image = {"url": part.get("image_url"), "detail": part.get("detail")}
            parts.append({"type": "image_url", "image_url": image})
        else:
            parts.append(part)
    return parts


def body(answer: ChatAnswer, model: str, name: str) -> dict[str, Any]:
    """The finished response."""
    return {**_frame(model, name, "completed"), "output": [_message(answer, name)], "usage": _usage(answer)}


def _frame(model: str, name: str, status: str) -> dict[str, Any]:
    return {
        "id": f"resp_{name}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": False,
        "temperature": None,
        "top_p": None,
        "tool_choice": "none",
        "tools": [],
        "usage": None,
    }


def _message(answer: ChatAnswer, name: str) -> dict[str, Any]:
    return {
        "type": "message",
        "id": f"msg_{name}",
        "status": "completed",
        "role": "assistant",
        "content": [_part(answer.choices[0].message.content)],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(answer: ChatAnswer) -> dict[str, Any]:
    return {
        "input_tokens": answer.usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answer.usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.usage.total_tokens,
    }


async def events(running: Running, model: str, name: str, limits: Limits) -> AsyncGenerator[tuple[str, str]]:
    """Name and data of each server-sent event. Closing ends the work."""
    number = 0

    def event(kind: str, **values: Any) -> tuple[str, str]:
        nonlocal number
        number += 1
        return kind, json.dumps({"type": kind, "sequence_number": number - 1, **values})

    place = {"item_id": f"msg_{name}", "output_index": 0, "content_index": 0}
    try:
        yield event("response.created", response=_frame(model, name, "in_progress"))
        answer = await running
        text, message = answer.choices[0].message.content, _message(answer, name)
        begun = {**message, "status": "in_progress", "content": []}
        yield event("response.output_item.added", output_index=0, item=begun)
        yield event("response.content_part.added", **place, part=_part(""))
        yield event("response.output_text.delta", **place, delta=text, logprobs=[])
        yield event("response.output_text.done", **place, text=text, logprobs=[])
        yield event("response.content_part.done", **place, part=_part(text))
        yield event("response.output_item.done", output_index=0, item=message)
        yield event("response.completed", response=body(answer, model, name))
    except CaptionServeError as error:
        status = problems.body_of(error, name, limits).status
        failure = {"code": error_member(error.message, status)["code"] or "server_error", "message": error.message}
        yield event("response.failed", response={**_frame(model, name, "failed"), "error": failure})
    except Exception as error:
        log_bug(name, error)
        failure = {"code": "server_error", "message": problems.BUG}
        yield event("response.failed", response={**_frame(model, name, "failed"), "error": failure})
    finally:
        running.cancel()
