"""The answer to a chat request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

from serve_app.contract import CaptionBody
from serve_app.errors import NotDeployed
from serve_app.http.openai.request import NO_IMAGE, ChatTask
from serve_app.http.openai.schemas import AnswerMessage, Choice, Usage
from serve_app.service.captions import CaptionService
from serve_app.service.several import Several
from serve_app.service.tasks import TaskService
from serve_app.tasks import ANSWERS
from serve_app.types import LEFT_OUT, TOO_LONG

IMAGE_TOKENS = 85
"""What an image counts in `usage`: OpenAI's own figure for one of low detail."""


class ChatAnswer(NamedTuple):
    choices: list[Choice]
    usage: Usage
    fingerprint: str | None
    """Of the captions; None if there are none."""


async def run(captions: CaptionService, tasks: TaskService, wanted: ChatTask, request_id: str) -> ChatAnswer:
    """A question's answers if a model for them is deployed, else all captions, several of them a few at a time; a fixed
    sentence without an image. Raises `RequestError`s and `ServiceError`s."""
    if not wanted.images:
        return _answer(wanted, [[NO_IMAGE]] * wanted.choices, [False] * wanted.choices, None)
    if wanted.question is not None and _has_answerer(tasks):
        texts = await _answers(tasks, wanted, wanted.question, request_id)
        return _answer(wanted, [texts] * wanted.choices, [False] * wanted.choices, None)
    bodies = await _captions(captions, wanted, request_id)
    reached = [any(map(_was_too_long, each)) for each in bodies]
    return _answer(wanted, [[body.caption for body in each] for each in bodies], reached, bodies[0][0].fingerprint)


def _has_answerer(tasks: TaskService) -> bool:
    try:
        tasks.need(ANSWERS)
    except NotDeployed:
        return False
    return True


async def _answers(tasks: TaskService, wanted: ChatTask, question: str, request_id: str) -> list[str]:
    """Of each image."""
    async with _cancelling() as group:
        jobs = [
            group.create_task(tasks.answer(image, {"question": question}, f"{request_id}-{number}"))
            for number, image in enumerate(wanted.images)
        ]
    return [job.result().answer for job in jobs]


async def _captions(service: CaptionService, wanted: ChatTask, request_id: str) -> list[list[CaptionBody]]:
    """Of each choice and image."""
    several = wanted.choices * len(wanted.images) > 1
    caption = Several(service).caption if several else service.caption
    jobs = []
    work = wanted.choices * sum(map(service.work, wanted.options))
    # A single one is charged when it is admitted.
    async with service.charged(work) if several else nullcontext(), _cancelling() as group:
        for choice in range(wanted.choices):
            for number, (image, options) in enumerate(zip(wanted.images, wanted.options, strict=True)):
                seed = options.get("seed", service.limits.default_seed) + choice
                name = f"{request_id}-{choice}-{number}"
                jobs.append(group.create_task(caption(image, {**options, "seed": seed}, name)))
    bodies, images = [job.result() for job in jobs], len(wanted.images)
    return [bodies[choice * images : (choice + 1) * images] for choice in range(wanted.choices)]


def _was_too_long(body: CaptionBody) -> bool:
    return any(notice.startswith((LEFT_OUT, TOO_LONG)) for notice in body.notices)


def _answer(
    wanted: ChatTask, texts: Sequence[Sequence[str]], reached: Sequence[bool], fingerprint: str | None
) -> ChatAnswer:
    """`texts` are those of each choice's images; `reached` says whether its length was."""
    plain = [
        each[0] if len(each) == 1 else "\n".join(f"{number}. {text}" for number, text in enumerate(each, start=1))
        for each in texts
    ]
    choices = [
        Choice(
            index=index,
            message=AnswerMessage(content=wanted.format.render(text)),
            finish_reason="length" if cut else "stop",
        )
        for index, (text, cut) in enumerate(zip(plain, reached, strict=True))
    ]
    asked = len(wanted.images) * IMAGE_TOKENS + len(wanted.text.split())
    said = sum(len(text.split()) for text in plain)
    usage = Usage(prompt_tokens=asked, completion_tokens=said, total_tokens=asked + said)
    return ChatAnswer(choices, usage, fingerprint)


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
