"""The deployment that takes requests, from HTTP and from Python handles."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from ray.serve.handle import DeploymentHandle

from serve_app.args import AppArgs
from serve_app.deployments.capacity import Capacity
from serve_app.deployments.generator import HandleGenerator
from serve_app.deployments.logs import log_with_serve
from serve_app.deployments.metrics import AdmissionMetrics
from serve_app.deployments.receive import DisconnectMiddleware
from serve_app.deployments.task_models import HandleAnswerer, HandleMatcher
from serve_app.http import create_app
from serve_app.http.middleware.guard import check_of
from serve_app.pipeline import CaptionPipeline
from serve_app.service import FILE_VARIABLE, KEYS_VARIABLE, CaptionService, KeyStore, TaskService
from serve_app.service.fetch import Fetcher
from serve_app.service.job_store import store_of
from serve_app.service.jobs import Jobs
from serve_app.service.quota import Quota
from serve_app.service.results import Results
from serve_app.service.webhooks import SECRET_VARIABLE, Webhooks
from serve_app.tasks import EMBEDDINGS, TASKS, Task
from serve_app.types import Strategy
from serve_app.wiring import pipeline_of


class IngressReplica:
    """Decodes, fans out to the caption replicas and merges; holds no model."""

    def __init__(
        self,
        args: AppArgs,
        captioners: Mapping[str, DeploymentHandle[Any]],
        deployments: Mapping[str, str],
        matcher: DeploymentHandle[Any] | None = None,
        answerer: DeploymentHandle[Any] | None = None,
    ) -> None:
        """`captioners` and `deployments`: the handle and the deployment's name of each captioner."""
        log_with_serve()
        self._args = args
        self._generators = {
            name: HandleGenerator(handle, spread=args.spread, max_retries=args.max_retries)
            for name, handle in captioners.items()
        }
        self._matcher = HandleMatcher(matcher, max_retries=args.max_retries) if matcher else None
        self._answerer = HandleAnswerer(answerer, max_retries=args.max_retries) if answerer else None
        rows = {name: each.rows for name, each in args.each().items()}
        self._capacity = Capacity({name: (deployment, rows[name]) for name, deployment in deployments.items()})
        self._capacity.depth = args.admission_depth
        self._metrics = AdmissionMetrics()
        file = args.api_keys_file or os.environ.get(FILE_VARIABLE)
        self._keys = KeyStore(file, os.environ.get(KEYS_VARIABLE))
        quota = Quota(self._capacity.ingresses, args.redis_url)
        results = Results(args.redis_url)
        self._service = CaptionService(self._pipeline(args), args.limits(), self._capacity, quota, results)
        webhooks = Webhooks(Fetcher(), os.environ.get(SECRET_VARIABLE))
        self._jobs = (
            Jobs(self._service, store_of(args.job_store, args.job_kept_s), webhooks) if args.job_store else None
        )
        self._tasks = TaskService(self._service, self._matcher, self._answerer)

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Takes live settings (`serve_app.args.LIVE`) over those of the application's args."""
        args = self._args.reconfigured(user_config)
        pipeline = self._pipeline(args)
        for generator in self._generators.values():
            generator.reconfigure(spread=args.spread, max_retries=args.max_retries)
        for model in (self._matcher, self._answerer):
            if model is not None:
                model.reconfigure(max_retries=args.max_retries)
        self._service.reconfigure(pipeline, args.limits())
        self._capacity.depth = args.admission_depth

    async def check_health(self) -> None:
        """Serve asks every few seconds, on the replica's event loop: metrics are brought up to date, and jobs that lost
        their replica looked after."""
        if self._jobs is not None:
            self._jobs.start()
        admission = self._service.admission
        self._metrics.update(admission.admitted, self._capacity.rows, admission.shed)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = create_app(
            self._service,
            self._tasks,
            keys=self._keys,
            jobs=self._jobs,
            cors_origins=self._args.cors_origins,
            allowed_hosts=self._args.allowed_hosts,
            send_request_id=False,  # Serve sends the header itself
        )
        app.add_middleware(DisconnectMiddleware)
        return app

    async def caption(
        self, image: Any, options: Mapping[str, Any] | None = None, background: bool = False
    ) -> dict[str, Any]:
        """The handle contract: image = bytes, PIL image or uint8 array; options and answer as over HTTP.

        `background` work is let in only while half of the room stays for others.

        Raises `serve_app.errors.RequestError` and `ServiceError` subclasses.
        """
        body = await self._service.caption(image, options or {}, background=background)
        return body.model_dump()

    async def events(
        self, image: Any, options: Mapping[str, Any] | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Like `caption`, an event for each step as over HTTP, for `handle.options(stream=True).events.remote`."""
        events = self._service.events(image, options or {})
        try:
            async for event in events:
                yield event.model_dump()
        finally:
            await events.aclose()

    async def embed(self, images: Sequence[Any] = (), texts: Sequence[str] = ()) -> dict[str, Any]:
        """Vectors of the texts, then of the images, as `POST /v1/embeddings` gives them."""
        return (await self._tasks.embed(list(images), {"input": list(texts)})).model_dump()

    async def describe(self) -> dict[str, Any]:
        """What the service offers, see `serve_app.contract.Description`."""
        return (await self._service.describe()).model_dump()

    async def fingerprint(self, strategy: Strategy | None = None, use: Sequence[str] = ()) -> str:
        """What makes the captions of a strategy now, as their `fingerprint` says."""
        return await self._service.fingerprint(strategy, use)

    async def keys_needed(self) -> bool:
        """Whether callers over HTTP need an API key."""
        return self._keys.active

    async def check_keys(self, given: Sequence[str]) -> str | None:
        """The name of the first of these keys that is known."""
        key = await check_of(self._keys)(given)
        return None if key is None else key.name

    def _pipeline(self, args: AppArgs) -> CaptionPipeline:
        return pipeline_of(args, self._generators, self._matcher, self._answerer)

    def __del__(self) -> None:
        if capacity := getattr(self, "_capacity", None):
            capacity.close()


def _method(task: Task) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    async def method(
        self: IngressReplica, image: Any, subject: Any, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        values = {task.subject: subject, **(options or {})}
        body: BaseModel = await getattr(self._tasks, task.method)(image, values)
        return body.model_dump()

    method.__name__ = task.method
    method.__doc__ = f"""`method(image, {task.subject}, options)`: the answer that `POST {task.path}` gives.

    Raises `NotDeployed` besides what `caption` raises.
    """
    return method


for _task in TASKS:
    if _task is not EMBEDDINGS:  # which takes several images
        setattr(IngressReplica, _task.method, _method(_task))
