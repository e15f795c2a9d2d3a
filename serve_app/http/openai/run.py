"""The captions of a chat request."""

from __future__ import annotations

import asyncio
from typing import Any

from serve_app.contract import CaptionBody
from serve_app.http.openai.request import ChatCaptions
from serve_app.http.openai.schemas import AnswerMessage, Choice, Usage
from serve_app.service.captions import CaptionService
from serve_app.service.several import Several
from serve_app.types import LEFT_OUT, TOO_LONG

IMAGE_TOKENS = 85
"""What an image counts in `usage`: OpenAI's own figure for one of low detail."""


async def run(service: CaptionService, wanted: ChatCaptions, request_id: str) -> tuple[list[Choice], Usage]:
    """All captions, several of them a few at a time. Raises `RequestError`s and `ServiceError`s."""
    jobs = []
    caption = Several(service).caption if wanted.choices * len(wanted.images) > 1 else service.caption
    async with _cancelling() as group:
        for choice in range(wanted.choices):
            for number, (image, options) in enumerate(zip(wanted.images, wanted.options, strict=True)):
                seed = options.get("seed", service.limits.default_seed) + choice
                name = f"{request_id}-{choice}-{number}"
                jobs.append(group.create_task(caption(image, {**options, "seed": seed}, name)))
    bodies = [job.result() for job in jobs]
    images = len(wanted.images)
    choices = [_choice(index, bodies[index * images : (index + 1) * images]) for index in range(wanted.choices)]
    asked = images * IMAGE_TOKENS + len(wanted.text.split())
    said = sum(len(choice.message.content.split()) for choice in choices)
    return choices, Usage(prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said)


class _cancelling:
    """A task group that raises its first error itself, not a group of errors."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> asyncio.TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._group.__aexit__(*error)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None


def _choice(index: int, bodies: list[CaptionBody]) -> Choice:
    if len(bodies) == 1:
        text = bodies[0].caption
    else:
        text = "\n".join(f"{number}. {body.caption}" for number, body in enumerate(bodies, start=1))
    reached = any(notice.startswith((LEFT_OUT, TOO_LONG)) for body in bodies for notice in body.notices)
    return Choice(index=index, message=AnswerMessage(content=text), finish_reason="length" if reached else "stop")
