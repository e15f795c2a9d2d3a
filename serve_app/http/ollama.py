"""Ollama's API as far as picture tools use it: they find the model, and have an image described or asked about."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import serve_app
from serve_app.errors import CaptionServeError
from serve_app.http import problems
from serve_app.http.body import read_json_object
from serve_app.http.disconnect import ClientGone, while_connected
from serve_app.http.json_size import check_json_size
from serve_app.http.middleware.request_id import request_id
from serve_app.http.openai.names import served, served_as
from serve_app.http.openai.request import invalid, read_json, task_of, using
from serve_app.http.openai.run import ChatAnswer, run
from serve_app.http.openai.schemas import MAX_MESSAGES, ChatRequest
from serve_app.http.openai.stream import Running, begun, log_bug
from serve_app.http.paths import route_path
from serve_app.service.captions import CaptionService
from serve_app.service.tasks import TaskService

PATH = "/api/"
_NDJSON = "application/x-ndjson"
_DETAILS = {"format": "safetensors", "family": "blip", "families": ["blip"], "parameter_size": ""}

router = APIRouter(include_in_schema=False)


class OllamaMessage(BaseModel):
    role: str
    content: str = ""
    images: list[str] = Field(default_factory=list)


class OllamaRequest(BaseModel):
    """Of `/api/generate` (prompt, images, system) and `/api/chat` (messages); what is not named here is ignored."""

    model_config = ConfigDict(extra="ignore")

    model: str
    prompt: str = ""
    system: str | None = None
    images: list[str] | None = None
    messages: list[OllamaMessage] | None = Field(None, max_length=MAX_MESSAGES)
    format: str | dict[str, Any] | None = None
    options: dict[str, Any] | None = None
    stream: bool = True


def is_ollama(request: Request) -> bool:
    return route_path(request.scope).startswith(PATH)


async def refuse(request: Request, error: CaptionServeError) -> Response:
    """A problem document whose `error` is what Ollama's clients show."""
    status = 400 if error.status == 422 else None
    response = (
        problems.problem(request, status, error.slug, error.message)
        if status
        else await problems.on_error(request, error)
    )
    headers = {name: value for name, value in response.headers.items() if name in ("retry-after", "www-authenticate")}
    body = {**json.loads(bytes(response.body)), "error": error.message}
    return JSONResponse(body, response.status_code, headers, media_type=problems.MEDIA_TYPE)


@router.get("/api/version")
async def version() -> dict[str, str]:
    return {"version": serve_app.__version__}


@router.get("/api/tags")
async def tags(request: Request) -> Response:
    try:
        names = [each.name for each in await served(request.app.state.service)]
    except CaptionServeError as error:
        return await refuse(request, error)
    rest = {"modified_at": _now(), "size": 0, "digest": "", "details": _DETAILS}
    models = [{"name": name, "model": name, **rest} for name in names]
    return JSONResponse({"models": models})


@router.post("/api/show")
async def show(request: Request) -> Response:
    service: CaptionService = request.app.state.service
    try:
        asked = await read_json_object(request, 0)
        name = (await served_as(service, _plain(str(asked.get("model") or asked.get("name"))))).name
    except ClientDisconnect:
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    except CaptionServeError as error:
        return await refuse(request, error)
    told = {"details": _DETAILS, "capabilities": ["vision", "completion"], "model_info": {"name": name}}
    return JSONResponse(told)


@router.post("/api/generate")
async def generate(request: Request) -> Response:
    return await _answer(request, chat=False)


@router.post("/api/chat")
async def chat(request: Request) -> Response:
    return await _answer(request, chat=True)


async def _answer(request: Request, *, chat: bool) -> Response:
    service: CaptionService = request.app.state.service
    tasks: TaskService = request.app.state.tasks
    start, name = time.perf_counter_ns(), request_id(request.scope)
    try:
        asked = await asyncio.to_thread(_parse, await read_json(request, service.limits))
        wanted = await task_of(_as_chat(asked), service.limits, request.app.state.fetcher)
        served_model = await served_as(service, _plain(asked.model))
        wanted, model = using(wanted, served_model.use), served_model.name
        if asked.stream:
            running = await begun(run(service, tasks, wanted, name))
            lines = _lines(running, request, model, start, chat=chat)
            return StreamingResponse(lines, media_type=_NDJSON, headers={"X-Accel-Buffering": "no"})
        answer = await while_connected(request, run(service, tasks, wanted, name))
    except (ClientGone, ClientDisconnect):
        return Response(status_code=problems.CLIENT_CLOSED_REQUEST)
    except CaptionServeError as error:
        return await refuse(request, error)
    return JSONResponse({**_piece(model, _text(answer), chat=chat), **_end(answer, start)})


def _parse(data: bytearray) -> OllamaRequest:
    """Raises `InvalidRequest`."""
    check_json_size(data)
    try:
        return OllamaRequest.model_validate_json(data)
    except ValidationError as error:
        raise invalid(error) from error


def _as_chat(asked: OllamaRequest) -> ChatRequest:
    """Raises `InvalidRequest`."""
    given = asked.messages
    if given is None:
        system = [OllamaMessage(role="system", content=asked.system)] if asked.system else []
        given = [*system, OllamaMessage(role="user", content=asked.prompt, images=asked.images or [])]
    options = asked.options or {}
    words = options.get("num_predict")
    values = {
        "model": asked.model,
        "messages": [{"role": each.role, "content": _content(each)} for each in given],
        "max_tokens": words if isinstance(words, int) and words > 0 else None,
        "seed": options.get("seed") if isinstance(options.get("seed"), int) and options["seed"] >= 0 else None,
        "response_format": _format(asked.format),
    }
    try:
        return ChatRequest.model_validate(values)
    except ValidationError as error:
        raise invalid(error) from error


def _content(message: OllamaMessage) -> list[dict[str, Any]]:
    images = [{"type": "image_url", "image_url": {"url": image}} for image in message.images]
    return [{"type": "text", "text": message.content}, *images]


def _format(given: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(given, dict):
        return {"type": "json_schema", "json_schema": {"schema": given}}
    return {"type": "json_object"} if given == "json" else None


def _plain(name: str) -> str:
    """Ollama's clients add a tag to a name that has none."""
    return name.removesuffix(":latest")


async def _lines(running: Running, request: Request, model: str, start: int, *, chat: bool) -> AsyncGenerator[str]:
    try:
        answer = await running
        yield json.dumps({**_piece(model, _text(answer), chat=chat), "done": False}) + "\n"
        yield json.dumps({**_piece(model, "", chat=chat), **_end(answer, start)}) + "\n"
    except CaptionServeError as error:
        yield json.dumps({"error": error.message}) + "\n"
    except Exception as error:
        log_bug(request_id(request.scope), error)
        yield json.dumps({"error": problems.BUG}) + "\n"
    finally:
        running.cancel()


def _text(answer: ChatAnswer) -> str:
    return answer.choices[0].message.content


def _piece(model: str, text: str, *, chat: bool) -> dict[str, Any]:
    said = {"message": {"role": "assistant", "content": text}} if chat else {"response": text}
    return {"model": model, "created_at": _now(), **said}


def _end(answer: ChatAnswer, start: int) -> dict[str, Any]:
    return {
        "done": True,
        "done_reason": answer.choices[0].finish_reason,
        "total_duration": time.perf_counter_ns() - start,
        "prompt_eval_count": answer.usage.prompt_tokens,
        "eval_count": answer.usage.completion_tokens,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
