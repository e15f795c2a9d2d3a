"""The web page on this machine, without a cluster."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Any

import uvicorn
from pydantic import BaseModel

from serve_app.args import AppArgs, PageArgs
from serve_app.local import local_services
from serve_app.service import CaptionService, TaskService
from serve_app.tasks import Task
from serve_app.ui import page_app


class LocalPageBackend:
    """`serve_app.ui.PageBackend` over a service in this process."""

    def __init__(self, service: CaptionService, tasks: TaskService) -> None:
        self._service = service
        self._tasks = tasks

    async def events(self, image: bytes, options: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        events = self._service.events(image, options)
        try:
            async for event in events:
                yield event.model_dump()
        finally:
            await events.aclose()

    async def ask(self, task: Task, image: bytes, subject: Any) -> dict[str, Any]:
        body: BaseModel = await getattr(self._tasks, task.method)(image, {task.subject: subject})
        return body.model_dump()

    async def describe(self) -> dict[str, Any]:
        return (await self._service.describe()).model_dump()


def serve_page(args: AppArgs, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Loads the model and serves the page until Ctrl-C; `ready` is called with its address. Raises `ModelError`s."""
    app = page_app(LocalPageBackend(*local_services(args)), PageArgs(root_path=""))
    ready(f"http://{host}:{port}")
    uvicorn.run(app, host=host, port=port, log_level="warning")
