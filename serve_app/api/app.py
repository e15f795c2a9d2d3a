"""The ASGI application over a caption service."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException

import serve_app
from serve_app.api import problems
from serve_app.api.gate import GateMiddleware
from serve_app.api.request_id import RequestIdMiddleware
from serve_app.api.routes import router
from serve_app.api.service import CaptionService
from serve_app.errors import CaptionServeError

DESCRIPTION = "Detailed image captions: several prompts in parallel, merged, extended and refined in rounds."


def create_app(service: CaptionService, *, send_request_id: bool = True) -> FastAPI:
    """Builds the application; routes reach the service through `app.state.service`.

    `send_request_id=False` leaves the response header `x-request-id` to a server that sets it itself.
    """
    app = FastAPI(title="caption-serve", version=serve_app.__version__, description=DESCRIPTION, redoc_url=None)
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(CaptionServeError, problems.on_error)
    app.add_exception_handler(HTTPException, problems.on_http_exception)
    app.add_exception_handler(Exception, problems.on_bug)
    app.add_middleware(GateMiddleware, service=service)
    app.add_middleware(RequestIdMiddleware, respond=send_request_id)
    return app
