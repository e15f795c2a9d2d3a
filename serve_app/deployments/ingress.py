"""The deployment that takes requests, from HTTP and from Python handles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle

from serve_app.api import CaptionService, create_app
from serve_app.args import AppArgs
from serve_app.deployments.generator import HandleGenerator
from serve_app.pipeline import CaptionPipeline, Presets


class IngressReplica:
    """Decodes, fans out to the caption replicas and merges; holds no model."""

    def __init__(self, args: AppArgs, captioner: DeploymentHandle[Any]) -> None:
        generator = HandleGenerator(captioner, spread=args.spread, max_retries=args.max_retries)
        pipeline = CaptionPipeline(generator, Presets().override(args.presets))
        self._service = CaptionService(pipeline, args.limits())

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._service, send_request_id=False)  # Serve sends the header itself

    async def caption(self, image: Any, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The handle contract: image = bytes, PIL image or uint8 array; options and answer as over HTTP.

        Raises `serve_app.errors.RequestError` and `ServiceError` subclasses.
        """
        body = await self._service.caption(image, options or {})
        return body.model_dump()
