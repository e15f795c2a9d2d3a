"""One request from raw image and options to the answer's body; shared by HTTP, handle and command line."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from serve_app.contract import CaptionBody, Description, ResultEvent, StepEvent
from serve_app.deadline import NEVER, Deadline
from serve_app.errors import ServiceError
from serve_app.limits import Limits
from serve_app.options import parse_options
from serve_app.service import images
from serve_app.service.admission import Admissions
from serve_app.service.bodies import caption_body, step_event
from serve_app.service.budget import Budget
from serve_app.service.quota import OWNER, Quota
from serve_app.service.readiness import Readiness
from serve_app.service.record import RECORD
from serve_app.service.results import Results, key_of
from serve_app.service.sources import RemoteImage
from serve_app.steps import ONLY, SEVERAL, Captioner, OnStep, Started, Step, Work
from serve_app.types import STRATEGIES, CaptionOptions, ModelInfo, Picture, Pixels, Size, Strategy

INTAKE_THREADS = 4
"""Images decoded at once, as far as `decode_memory_bytes` lets them."""

FINGERPRINT_S = 5.0
"""How long an answer that could be kept waits for the models to say which ones they are."""
UNREAD = "The request's time limit was reached before its image was read."


class CaptionService:
    """Validates, admits, decodes off the event loop, and captions."""

    def __init__(
        self,
        captioner: Captioner,
        limits: Limits | None = None,
        capacity: Callable[[str], float] = lambda _: math.inf,
        quota: Quota | None = None,
        results: Results | None = None,
    ) -> None:
        """`capacity` is how much work (see `Captioner.work`) each captioner may have in progress."""
        self.limits = limits or Limits()
        self.tasks: tuple[str, ...] = ()
        """What is deployed beside captions."""
        self.readiness = Readiness(captioner)
        self.admission = Admissions(capacity)
        self.quota = quota or Quota()
        self._results = results or Results()
        self._captioner = captioner
        self.bodies = Budget()
        """Memory of the bodies of requests in progress."""
        self._decoding = Budget()
        self._threads = ThreadPoolExecutor(INTAKE_THREADS, thread_name_prefix="intake")

    async def info(self) -> ModelInfo:
        """The model that captions now."""
        return await self._captioner.info()

    async def model(self) -> str:
        """The name of what captions: the model's, or those of several captioners."""
        return SEVERAL.join(self.captioners) or (await self.info()).name

    @property
    def captioners(self) -> tuple[str, ...]:
        """Names of the captioners, if there are several."""
        return self._captioner.captioners

    def check_capacity(self) -> None:
        """Raises `Overloaded` if no request could be admitted now."""
        self.admission.check(self.captioners or (ONLY,))

    async def describe(self) -> Description:
        """What may be asked for, and the defaults."""
        limits = self.limits
        return Description(
            model=await self.model(),
            captioners=list(self._captioner.captioners),
            strategies=list(STRATEGIES),
            tasks=list(self.tasks),
            default_strategy=limits.default_strategy,
            default_detail=limits.default_detail,
            default_seed=limits.default_seed,
            max_image_bytes=limits.max_image_bytes,
            max_image_pixels=limits.max_image_pixels,
            max_timeout_s=limits.max_timeout_s,
        )

    async def fingerprint(self, strategy: Strategy | None = None, use: Sequence[str] = ()) -> str:
        """What makes the captions of a strategy, by default the service's, of all captioners or of those in `use`, as
        long as nothing is lost."""
        return await self._captioner.fingerprint(strategy or self.limits.default_strategy, use)

    async def caption(
        self,
        image: Any,
        options: Mapping[str, Any],
        request_id: str | None = None,
        *,
        background: bool = False,
        queue_until: Deadline | None = None,
        fresh: bool = False,
    ) -> CaptionBody:
        """Captions bytes, a PIL image or a uint8 array. Raises `RequestError`s and `ServiceError`s.

        The same bytes and options may get an answer that was kept (`result_cache_entries`), unless it is to be `fresh`.

        `background` work is admitted into half of the capacity only. With `queue_until` it waits for capacity until
        then, instead of raising `Overloaded`.
        """
        resolved = parse_options(dict(options), self.limits)
        name = request_id or uuid.uuid4().hex
        image, resolved, took_s = await self._fetched(image, resolved)

        async def make() -> CaptionBody:
            async with self._admitted(self._captioner.work(resolved), background, queue_until):
                return await self._run(image, resolved, name, until=queue_until or NEVER, took_s=took_s)

        if not self.limits.result_cache_entries or fresh or queue_until is not None or not isinstance(image, bytes):
            return await make()  # what waits for capacity is not waited for by others
        return await self._kept(image, resolved, name, make)

    async def _kept(
        self, image: bytes, options: CaptionOptions, request_id: str, make: Callable[[], Awaitable[CaptionBody]]
    ) -> CaptionBody:
        """The answer to the same request before, or else the one that `make` makes."""
        start, deadline = time.perf_counter(), Deadline.after(options.timeout_s)
        try:
            async with Deadline.after(FINGERPRINT_S).enforced("No model said which one it is."):
                fingerprint = await self.fingerprint(options.strategy, options.use)
        except ServiceError:  # captions can do without a matcher, and this one is not kept
            return await make()
        owner = "" if self.limits.result_cache_shared else OWNER.get()
        key = await asyncio.to_thread(key_of, image, options, fingerprint, owner)  # hashes megabytes
        body, hit = await self._results.get(key, self.limits.result_cache_entries, deadline, make)
        if (record := RECORD.get()) is not None:
            record.cache = "hit" if hit else "miss"
        if not hit:
            return body
        total_ms = round((time.perf_counter() - start) * 1000, 1)
        return body.model_copy(update={"id": request_id, "timings_ms": {"total": total_ms}})

    async def _fetched(self, image: Any, options: CaptionOptions) -> tuple[Any, CaptionOptions, float]:
        """The image, the options with the time that is left, and the seconds that fetching took."""
        if not isinstance(image, RemoteImage):
            return image, options, 0.0
        start, deadline = time.perf_counter(), Deadline.after(options.timeout_s)
        image = await self.fetched(image, deadline)
        return image, replace(options, timeout_s=deadline.left_s), time.perf_counter() - start

    async def fetched(self, image: Any, deadline: Deadline) -> Any:
        """The image itself, if it is named by a URL. Raises what `Fetcher.fetch` raises, and `DeadlineExceeded`."""
        if not isinstance(image, RemoteImage):
            return image
        async with deadline.enforced(UNREAD):
            return await image.fetch(self.limits)

    @contextlib.asynccontextmanager
    async def _admitted(self, work: Work, background: bool, queue_until: Deadline | None) -> AsyncIterator[None]:
        rows = sum(work.values())
        if (record := RECORD.get()) is not None:
            record.rows += rows
        if queue_until is not None:
            async with self.admission.queue(work, queue_until), self.charged(rows):
                yield
        else:
            with self.admission.admit(work, background):
                async with self.charged(rows):
                    yield

    def charged(self, work: int) -> AbstractAsyncContextManager[None]:
        """Counts work (rows) for the key of the running request; what the block contains is not counted again.

        Raises `QuotaExceeded`.
        """
        return self.quota.hold(work, self.limits)

    def work(self, options: Mapping[str, Any]) -> int:
        """Rows of a caption with these options, of all captioners. Raises `InvalidOption`."""
        return sum(self._captioner.work(parse_options(dict(options), self.limits)).values())

    async def events(
        self, image: Any, options: Mapping[str, Any], request_id: str | None = None
    ) -> AsyncGenerator[StepEvent | ResultEvent, None]:
        """Like `caption`, with an event for each step as it is done; the last is the result.

        Raises the same errors, before the first event or after it. Closing the generator ends the work.
        """
        resolved = parse_options(dict(options), self.limits)
        name = request_id or uuid.uuid4().hex
        steps: asyncio.Queue[Step | None] = asyncio.Queue()

        async def run() -> CaptionBody:
            found, left, took_s = await self._fetched(image, resolved)
            async with self._admitted(self._captioner.work(left), background=False, queue_until=None):
                return await self._run(found, left, name, steps.put_nowait, took_s=took_s)

        work = asyncio.ensure_future(run())
        work.add_done_callback(lambda _: steps.put_nowait(None))
        model = ""
        try:
            while (step := await steps.get()) is not None:
                model = step.model if isinstance(step, Started) else model
                yield step_event(step, name, resolved, model)
            yield ResultEvent(**(await work).model_dump())
        finally:
            if not work.done():
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await work

    async def _run(
        self,
        image: Any,
        options: CaptionOptions,
        request_id: str,
        on_step: OnStep | None = None,
        until: Deadline = NEVER,
        took_s: float = 0.0,
    ) -> CaptionBody:
        """`took_s` has gone by before."""
        start, deadline = time.perf_counter(), min(Deadline.after(options.timeout_s), until)
        captioner, limits = self._captioner, self.limits  # of one configuration from the first step to the last
        async with deadline.enforced(UNREAD):
            sizes = await captioner.sizes(options)
        picture = await self._read(image, sizes, deadline, limits)
        took_s += time.perf_counter() - start
        remaining = replace(options, timeout_s=deadline.left_s)
        result = await captioner.caption(picture, remaining, on_step)
        self.readiness.worked()
        if (record := RECORD.get()) is not None:
            record.captions += 1
            record.strategy = options.strategy
            record.degraded += bool(result.degraded)
        return caption_body(result, request_id, took_s * 1000)

    def reconfigure(self, captioner: Captioner, limits: Limits) -> None:
        """Later requests meet the new limits and captioner; those in progress end as they began."""
        self._captioner = captioner
        self.limits = limits
        self.readiness.reconfigure(captioner)

    async def read(self, image: Any, model: ModelInfo, deadline: Deadline) -> Pixels:
        """The image at the model's size, decoded off the event loop. Raises `RequestError`s and `DeadlineExceeded`."""
        return (await self._read(image, (model.size,), deadline, self.limits))[model.size]

    async def _read(self, image: Any, sizes: Collection[Size], deadline: Deadline, limits: Limits) -> Picture:
        loop = asyncio.get_running_loop()
        async with deadline.enforced(UNREAD):
            return await loop.run_in_executor(self._threads, images.read_all, image, limits, sizes, self._decoding)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
