"""The deployment of the web page: a second application that reaches the first by its handle."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serve_app.args import PageArgs
from serve_app.deployments.handle_errors import our_errors
from serve_app.deployments.logs import log_with_serve
from serve_app.deployments.receive import DisconnectMiddleware
from serve_app.errors import CaptionServeError, TryLater
from serve_app.http import problems
from serve_app.http.middleware.guard import GuardMiddleware
from serve_app.http.middleware.security_headers import PAGE_POLICY, SecurityHeadersMiddleware
from serve_app.http.middleware.uploads import UploadMiddleware
from serve_app.limits import Limits
from serve_app.service.keys import Key, digest_of
from serve_app.tasks import Task

if TYPE_CHECKING:
    from serve_app.ui import PageKeys

ASK_AGAIN_S = 5.0
MOST_KNOWN = 10_000
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

    async def keys_needed(self) -> bool:
        with our_errors("ingress"):
            return bool(await self._handle().keys_needed.remote())

    async def check_keys(self, given: Sequence[str]) -> str | None:
        with our_errors("ingress"):
            name: str | None = await self._handle().check_keys.remote(list(given))
        return name

    async def describe(self) -> dict[str, Any]:
        with our_errors("ingress"):
            description: dict[str, Any] = await self._handle().describe.remote()
        return description

    def _handle(self) -> Any:
        if self._found is None:
            self._found = serve.get_app_handle(self._application)
        return self._found


class _Access:
    """What the service says of keys, asked again every few seconds: a key that is taken out does not stay logged in."""

    def __init__(self, keys: PageKeys) -> None:
        self._keys = keys
        self._needed: tuple[float, bool] | None = None
        self._known: dict[str, tuple[float, str | None]] = {}

    async def needed(self) -> bool:
        now = time.monotonic()
        if self._needed is None or now - self._needed[0] > ASK_AGAIN_S:
            self._needed = now, await self._keys.keys_needed()
        return self._needed[1]

    async def check(self, given: Sequence[str]) -> Key | None:
        now = time.monotonic()
        for text in given:
            digest = digest_of(text)
            known = self._known.get(digest)
            if known is None or now - known[0] > ASK_AGAIN_S:
                if len(self._known) > MOST_KNOWN:
                    self._known.clear()
                known = self._known[digest] = now, await self._keys.check_keys([text])
            if known[1] is not None:
                return Key(name=known[1], digest=digest)
        return None


async def _refuse(request: Request, error: CaptionServeError) -> Response:
    retry_after_s = error.retry_after_s if isinstance(error, TryLater) else None
    return problems.problem(request, error.status, error.slug, error.message, retry_after_s)


def guarded(app: ASGIApp, keys: PageKeys, uploads: Path) -> ASGIApp:
    """The page with the API's keys, if it has any: one setting guards both.

    `uploads` is the folder of uploaded files, which are bounded.
    """
    access = _Access(keys)
    app = UploadMiddleware(app, ("/upload", "/process_recording"), Limits, lambda: uploads)
    app = GuardMiddleware(app, access.check, Limits, _refuse, browser=True, needed=access.needed)
    return SecurityHeadersMiddleware(app, PAGE_POLICY)


def build_page(args: PageArgs) -> Application:
    """One replica: Gradio keeps its queue and its visitors' files in the process."""

    def page() -> ASGIApp:
        from serve_app.ui import environment, page_app  # brings Gradio, which the controller can do without

        log_with_serve()
        backend = HandlePageBackend(args.application)
        return DisconnectMiddleware(guarded(page_app(backend, args), backend, environment.FILES))

    deployment: Any = serve.deployment(serve.ingress(page)(), name=PAGE, num_replicas=1, max_ongoing_requests=200)
    application: Application = deployment.bind()
    return application
