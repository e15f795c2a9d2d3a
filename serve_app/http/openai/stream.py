"""A chat answer in chunks."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from serve_app.errors import CaptionServeError
from serve_app.http import problems
from serve_app.http.openai.errors import error_member
from serve_app.http.openai.request import ChatTask
from serve_app.http.openai.run import ChatAnswer
from serve_app.http.openai.schemas import Chunk, ChunkChoice, Delta, Usage
from serve_app.limits import Limits

logger = logging.getLogger(__name__)

DONE = "[DONE]"
REFUSED_AT_ONCE_S = 0.05
"""A streamed answer begins this late, so that a full service can still answer with its status."""
Running = asyncio.Task[ChatAnswer]


async def begun(work: Coroutine[Any, Any, ChatAnswer]) -> Running:
    """The work as a task. Raises what it raises at once."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.wait({running}, timeout=REFUSED_AT_ONCE_S)
    except BaseException:
        running.cancel()
        raise
    if running.done() and (error := running.exception()) is not None:
        raise error
    return running


async def chunks(wanted: ChatTask, running: Running, model: str, name: str, limits: Limits) -> AsyncGenerator[str]:
    """The data of each server-sent event: the role at once, the text when it is there. Closing ends the work."""
    created, fingerprint = int(time.time()), None

    def chunk(choices: list[ChunkChoice], usage: Usage | None = None) -> str:
        made = Chunk(
            id=f"chatcmpl-{name}",
            created=created,
            model=model,
            choices=choices,
            usage=usage,
            system_fingerprint=fingerprint,
        )
        return made.model_dump_json(exclude_none=usage is None)

    def each(delta: Delta) -> str:
        return chunk([ChunkChoice(index=index, delta=delta) for index in range(wanted.choices)])

    try:
        yield each(Delta(role="assistant", content=""))
        choices, usage, fingerprint = await running
        for choice in choices:
            yield chunk([ChunkChoice(index=choice.index, delta=Delta(content=choice.message.content))])
            yield chunk([ChunkChoice(index=choice.index, delta=Delta(), finish_reason=choice.finish_reason)])
        if wanted.chat.stream_options and wanted.chat.stream_options.include_usage:
            yield chunk([], usage)
    except CaptionServeError as error:
        status = problems.body_of(error, name, limits).status
        yield json.dumps({"error": error_member(error.message, status)})
    except Exception as error:
        log_bug(name, error)
        yield json.dumps({"error": error_member(problems.BUG, 500)})
    finally:
        running.cancel()
    yield DONE


def log_bug(name: str, error: Exception) -> None:
    logger.error("request %s failed", name, exc_info=error)
