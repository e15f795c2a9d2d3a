"""The ASGI application over a caption service."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

import serve_app
from serve_app.errors import CaptionServeError
from serve_app.http import description, job_routes, ollama, openai, problems, task_routes
from serve_app.http.mcp import mount_mcp
from serve_app.http.middleware.access_log import AccessLogMiddleware
from serve_app.http.middleware.gate import GateMiddleware
from serve_app.http.middleware.guard import GuardMiddleware, check_of
from serve_app.http.middleware.hosts import HostMiddleware
from serve_app.http.middleware.request_id import RequestIdMiddleware
from serve_app.http.middleware.security_headers import SecurityHeadersMiddleware
from serve_app.http.routes import router
from serve_app.service.captions import CaptionService
from serve_app.service.fetch import Fetcher
from serve_app.service.jobs import Jobs
from serve_app.service.keys import KeyStore
from serve_app.service.tasks import TaskService

EXPOSED = (
    "x-request-id",
    "retry-after",
    "location",
    "preference-applied",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
)
"""Response headers that web pages of other origins may read."""


def create_app(
    service: CaptionService,
    tasks: TaskService | None = None,
    *,
    keys: KeyStore | None = None,
    jobs: Jobs | None = None,
    cors_origins: Sequence[str] = (),
    allowed_hosts: Sequence[str] = (),
    send_request_id: bool = True,
) -> FastAPI:
    """Builds the application; routes reach the service through `app.state.service`.

    `send_request_id=False` leaves the response header `x-request-id` to a server that sets it itself.
    """
    app = FastAPI(title="caption-serve", version=serve_app.__version__, description=description.TEXT, redoc_url=None)
    app.router.redirect_slashes = False  # behind a proxy the address would be another one
    app.state.service = service
    app.state.tasks = tasks or TaskService(service)
    app.state.fetcher = Fetcher()
    app.state.jobs = jobs
    routers = (router, job_routes.router, task_routes.router, openai.router, ollama.router)
    for each in routers:
        app.include_router(each)
    mount_mcp(app, allowed_origins=cors_origins)
    # FastAPI hides the routes of its routers.
    app.state.routes = [*app.routes, *(route for each in routers for route in each.routes)]
    description.describe(
        app, requests=[openai.ChatRequest, openai.ResponsesRequest], keys_needed=keys is not None and keys.active
    )
    app.add_exception_handler(CaptionServeError, problems.on_error)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(Exception, problems.on_bug)
    # The last one added meets a request first.
    app.add_middleware(GateMiddleware, service=service, refuse=_refuse, has_jobs=jobs is not None)
    if keys is not None and keys.active:
        app.add_middleware(GuardMiddleware, check=check_of(keys), limits=lambda: service.limits, refuse=_refuse)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=list(EXPOSED),
        )
    if allowed_hosts:
        app.add_middleware(HostMiddleware, hosts=allowed_hosts)
    app.add_middleware(SecurityHeadersMiddleware)
    app.add_middleware(AccessLogMiddleware, limits=lambda: service.limits)
    app.add_middleware(RequestIdMiddleware, respond=send_request_id)
    return app


async def _refuse(request: Request, error: CaptionServeError) -> Response:
    """Renders a rejection that happens before routing, in the error format of the endpoint that was called."""
    if openai.is_chat(request):
        return await openai.refuse(request, error)
    if ollama.is_ollama(request):
        return await ollama.refuse(request, error)
    return await problems.on_error(request, error)
