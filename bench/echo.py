"""Ray Serve's own floor: what comes is given back, through an ingress and one deployment, and nothing else is done."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment
class Echo:
    async def __call__(self, data: bytes) -> bytes:
        return data


@serve.deployment
class EchoIngress:
    def __init__(self, echo: DeploymentHandle[Any]) -> None:
        self._echo = echo

    async def __call__(self, request: Request) -> Response:
        return Response(await self._echo.remote(await request.body()))


app = EchoIngress.bind(Echo.bind())
