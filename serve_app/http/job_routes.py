"""Captions that outlive the request that asked for them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.contract import JobBody
from serve_app.errors import JobUnknown
from serve_app.http import problems
from serve_app.http.paths import CAPTIONS
from serve_app.http.preferences import RESPOND_ASYNC
from serve_app.service.jobs import Jobs
from serve_app.service.sources import RemoteImage

WEBHOOK = "webhook-url"
"""Header with the URL that is called when the caption is done."""

router = APIRouter()


async def accepted(request: Request, image: bytes | RemoteImage, options: dict[str, Any]) -> Response:
    body = await request.app.state.jobs.submit(image, options, request.headers.get(WEBHOOK))
    headers = {
        "Location": f"{request.scope.get('root_path', '')}{CAPTIONS}/{body.id}",
        "Preference-Applied": RESPOND_ASYNC,
        "Vary": "Prefer",
    }
    return JSONResponse(body.model_dump(), 202, headers)


_PATH = f"{CAPTIONS}/{{job_id:uuid}}"
"""Nothing else, or it would stand for the other routes below it."""
_PROBLEMS = problems.responses((401, 404, 503))


@router.get(
    _PATH,
    response_model=JobBody,
    responses=_PROBLEMS,
    summary="A caption that was asked for with `Prefer: respond-async`",
)
async def find(request: Request, job_id: UUID) -> Response:
    return JSONResponse((await _jobs(request).find(job_id.hex)).model_dump())


@router.delete(
    _PATH,
    response_model=JobBody,
    responses=_PROBLEMS,
    summary="End a caption that was asked for with `Prefer: respond-async`",
)
async def cancel(request: Request, job_id: UUID) -> Response:
    return JSONResponse((await _jobs(request).cancel(job_id.hex)).model_dump())


def _jobs(request: Request) -> Jobs:
    jobs: Jobs | None = request.app.state.jobs
    if jobs is None:
        raise JobUnknown("No captions outlive their request here; the setting `job_store` turns that on.")
    return jobs
