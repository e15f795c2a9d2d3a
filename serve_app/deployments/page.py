"""The deployment of the web page: a second application that reaches the first by its handle."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from serve_app.args import PageArgs
from serve_app.deployments.handle_errors import our_errors
from serve_app.deployments.receive import DisconnectMiddleware
from serve_app.tasks import Task

PAGE = "Page"
"""Deployment name, as config files use it."""


class HandlePageBackend:
    """`serve_app.ui.PageBackend` over the handle of the caption application, which may still be starting."""

    def __init__(self, application: str) -> None:
        self._application = application
        self._found: DeploymentHandle[Any] | None = None

    async def events(self, image: bytes, options: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        answers: Any = None
        try:
            with our_errors("ingress"):
                answers = self._handle().options(stream=True).events.remote(image, options)
                async for event in answers:
                    yield event
        finally:
            if answers is not None:
                answers.cancel()

    async def ask(self, task: Task, image: bytes, subject: Any) -> dict[str, Any]:
        with our_errors("ingress"):
            answer: dict[str, Any] = await getattr(self._handle(), task.method).remote(image, subject)
        return answer

    async def describe(self) -> dict[str, Any]:
        with our_errors("ingress"):
            description: dict[str, Any] = await self._handle().describe.remote()
        return description

    def _handle(self) -> Any:
        if self._found is None:
            self._found = serve.get_app_handle(self._application)
        return self._found


def build_page(args: PageArgs) -> Application:
    """One replica: Gradio keeps its queue and its visitors' files in the process."""

    def page() -> ASGIApp:
        from serve_app.ui import page_app  # brings Gradio, which the controller can do without

        return DisconnectMiddleware(page_app(HandlePageBackend(args.application), args))

    deployment: Any = serve.deployment(serve.ingress(page)(), name=PAGE, num_replicas=1, max_ongoing_requests=200)
    application: Application = deployment.bind()
    return application
