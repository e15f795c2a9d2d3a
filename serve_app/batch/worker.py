"""The captioning stage: an actor that holds an engine, or that asks a running service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray.util.metrics import Counter

from serve_app.batch import claims, rows
from serve_app.batch.inputs import Input
from serve_app.batch.intake import unpacked, unpacked_picture
from serve_app.batch.settings import JobSettings
from serve_app.errors import CaptionServeError, GenerationFailed, GeneratorUnavailable, NotDeployed
from serve_app.retry import Retries, retried
from serve_app.service.bodies import caption_body
from serve_app.types import Picture, Pixels

logger = logging.getLogger(__name__)

ENGINE_LOST = 1
"""Exit code of an actor whose engine died; Ray starts it anew and repeats its calls."""


class JobBackend(Protocol):
    """Captions one image."""

    at_once: int
    """Images to have in progress."""
    is_engine: bool
    """Lost for good when it raises `GeneratorUnavailable`."""

    async def caption(self, image: Picture) -> dict[str, Any]: ...

    async def scores(self, image: Picture, texts: list[str]) -> list[float]:
        """How well each text describes the image."""
        ...


class EngineJobBackend:
    """An engine in this process. Raises `ModelError`s when the model cannot be loaded."""

    is_engine = True

    def __init__(self, settings: JobSettings, threads: int | None) -> None:
        from serve_app.local import local_pipeline

        if threads is not None:
            _limit_threads(threads)
        args = settings.app_args()
        self._pipeline, self._matcher = local_pipeline(args)
        self._options = settings.caption_options()
        infos = asyncio.run(self._pipeline.infos())
        work = self._pipeline.work(replace(self._options, rounds=1))
        each = args.each()
        full = [0 if infos[name].sequential else max(1, each[name].rows // max(1, rows)) for name, rows in work.items()]
        # A full batch and two images more: the engine never waits, and no image's time runs out in the slowest's queue.
        self.at_once = 2 + min(full)

    async def caption(self, image: Picture) -> dict[str, Any]:
        result = await self._pipeline.caption(image, self._options)
        if result.degraded:
            self._pipeline.check_health()  # of several captioners one may be lost without an error
        return caption_body(result, first(image).digest, 0.0).model_dump()

    async def scores(self, image: Picture, texts: list[str]) -> list[float]:
        assert self._matcher is not None
        matches = await self._matcher.match(first(image), texts)
        return [match.probability for match in matches]


class ServiceJobBackend:
    """A running service, called as background work: it keeps half of its capacity for others."""

    is_engine = False

    def __init__(self, settings: JobSettings, concurrency: int) -> None:
        from serve_app.deployments.client import CaptionClient

        assert settings.via_handle is not None
        self.at_once = concurrency
        self._client = CaptionClient.connect(settings.via_handle, concurrency=concurrency, background=True)
        self._options = dict(settings.options)

    async def caption(self, image: Picture) -> dict[str, Any]:
        return await self._client.caption(first(image).data, self._options)

    async def scores(self, image: Picture, texts: list[str]) -> list[float]:
        return [match["probability"] for match in (await self._client.match(first(image).data, texts))["matches"]]


class Worker:
    """Called by Ray Data from several threads, each with the columns of `intake.Reader`."""

    def __init__(self, settings: JobSettings, threads: int | None, concurrency: int, registry: Any) -> None:
        self._settings = settings
        self._registry = registry
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="worker", daemon=True).start()
        self._backend: JobBackend = asyncio.run_coroutine_threadsafe(
            _make(settings, threads, concurrency), self._loop
        ).result()
        self._room = asyncio.Semaphore(self._backend.at_once)
        self._images = Counter("caption_serve_batch_images", "images that are done", ("outcome",))
        self._life = uuid.uuid4().hex
        actor = ray.get_runtime_context().get_actor_id() or self._life
        asyncio.run_coroutine_threadsafe(self._ask("begin", actor, self._life), self._loop).result()

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """The columns `shard`, `place`, `row` (JSON) and `reused` (1 for a duplicate)."""
        work = asyncio.run_coroutine_threadsafe(self._rows(batch.to_pylist()), self._loop)
        try:
            answered = work.result()
        except GeneratorUnavailable:
            logger.exception("the engine is lost")
            os._exit(ENGINE_LOST)
        for row, _ in answered:
            self._images.inc(tags={"outcome": row["reason"] or "captioned"})
        shards, places = batch.column("shard").to_pylist(), batch.column("place").to_pylist()
        return {
            "shard": shards,
            "place": places,
            "row": [json.dumps(row, ensure_ascii=False) for row, _ in answered],
            "reused": [int(reused) for _, reused in answered],
        }

    async def _rows(self, images: list[dict[str, Any]]) -> list[tuple[dict[str, Any], bool]]:
        digests = [image["digest"] for image in images]
        told = iter(await self._ask("claim", self._life, [digest for digest in digests if digest]))
        states = [next(told) if digest else b"" for digest in digests]
        tasks = [asyncio.ensure_future(self._row(image, state)) for image, state in zip(images, states, strict=True)]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _row(self, image: Mapping[str, Any], state: bytes | str) -> tuple[dict[str, Any], bool]:
        item, digest = unpacked(image["input"]), image["digest"]
        if image["reason"]:
            return rows.failed(item, image["reason"], image["error"], self._settings), False
        if (row := await self._kept(item, image)) is not None:
            if state == claims.MINE:
                await self._ask("publish", {digest: None})
            return row, False
        answer = state if isinstance(state, bytes) else None
        if state == claims.ELSEWHERE:
            answer = await self._waited(digest)
        if answer is not None:
            return rows.captioned(item, json.loads(answer), digest, self._settings), True
        body = None
        try:
            body = await self._caption(unpacked_picture(image["image"]))
            return rows.captioned(item, body, digest, self._settings), False
        except CaptionServeError as error:
            if self._backend.is_engine and isinstance(error, GeneratorUnavailable):
                raise
            return rows.failed(item, rows.reason_of(error), error.message, self._settings), False
        finally:
            await self._ask("publish", {digest: claims.packed(body) if body is not None else None})

    async def _kept(self, item: Input, image: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row of an image one of whose own texts passes; None if a caption is needed."""
        digest, limits = image["digest"], self._settings.limits()
        texts = [text for text in rows.texts_of(item, self._settings) if len(text) <= limits.max_text_characters]
        texts = texts[: limits.max_texts]
        if not texts:
            return None
        try:
            async with self._room:
                scores = await self._backend.scores(unpacked_picture(image["image"]), texts)
        except GeneratorUnavailable:
            if self._backend.is_engine:
                raise
            return None
        except CaptionServeError as error:
            if isinstance(error, NotDeployed):
                raise  # it is so for every image
            logger.warning("texts could not be compared with their image", exc_info=True)
            return None
        score, text = max(zip(scores, texts, strict=True), key=lambda pair: pair[0])
        return rows.kept(item, text, score, digest, self._settings) if score >= self._settings.floor else None

    async def _caption(self, image: Picture) -> dict[str, Any]:
        async with self._room:
            # Once more: memory that ran out for a moment, for example.
            once = Retries(1, longest_pause_s=0, kinds=GenerationFailed)
            return await retried(lambda: self._backend.caption(image), once)

    async def _waited(self, digest: str) -> bytes | None:
        with contextlib.suppress(Exception):
            answer: bytes | None = await self._registry.wait.remote(digest)
            return answer
        return None

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Asks the registry; when that is lost, duplicates are captioned again and nothing else is wrong."""
        try:
            return await getattr(self._registry, method).remote(*arguments)
        except Exception:
            logger.warning("the registry of images could not be asked", exc_info=True)
            return [claims.MINE] * len(arguments[-1])


async def _make(settings: JobSettings, threads: int | None, concurrency: int) -> JobBackend:
    """On the loop that will use it; loading blocks nobody else there."""
    if settings.via_handle is not None:
        return ServiceJobBackend(settings, concurrency)
    return await asyncio.to_thread(EngineJobBackend, settings, threads)


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def first(picture: Picture) -> Pixels:
    """The image at the first captioner's size; for a service to decode, whatever was read."""
    return next(iter(picture.values()))
