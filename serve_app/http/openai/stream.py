"""A chat answer in chunks."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator

from serve_app.errors import CaptionServeError
from serve_app.http import problems
from serve_app.http.openai.errors import error_member
from serve_app.http.openai.request import ChatCaptions
from serve_app.http.openai.run import run
from serve_app.http.openai.schemas import Choice, Chunk, ChunkChoice, Delta, Usage
from serve_app.service.captions import CaptionService

logger = logging.getLogger(__name__)

DONE = "[DONE]"
Running = asyncio.Task[tuple[list[Choice], Usage]]


async def chunks(
    service: CaptionService, wanted: ChatCaptions, running: Running, model: str, name: str
) -> AsyncGenerator[str]:
    """The data of each server-sent event: the role at once, the text when it is there. Closing ends the work."""
    created = int(time.time())

    def chunk(choices: list[ChunkChoice], usage: Usage | None = None) -> str:
        made = Chunk(id=f"chatcmpl-{name}", created=created, model=model, choices=choices, usage=usage)
        return made.model_dump_json(exclude_none=usage is None)

    def each(delta: Delta) -> str:
        return chunk([ChunkChoice(index=index, delta=delta) for index in range(wanted.choices)])

    try:
        yield each(Delta(role="assistant", content=""))
        choices, usage = await running
        for choice in choices:
            yield chunk([ChunkChoice(index=choice.index, delta=Delta(content=choice.message.content))])
            yield chunk([ChunkChoice(index=choice.index, delta=Delta(), finish_reason=choice.finish_reason)])
        if wanted.chat.stream_options and wanted.chat.stream_options.include_usage:
            yield chunk([], usage)
    except CaptionServeError as error:
        status = problems.body_of(error, name, service.limits).status
        yield json.dumps({"error": error_member(error.message, status)})
    except Exception as error:
        logger.error("request %s failed", name, exc_info=error)
        yield json.dumps({"error": error_member(problems.BUG, 500)})
    finally:
        running.cancel()
    yield DONE


def start(service: CaptionService, wanted: ChatCaptions, name: str) -> Running:
    return asyncio.ensure_future(run(service, wanted, name))
