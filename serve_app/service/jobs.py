"""Captions that outlive the request that asked for them: `Prefer: respond-async`.

A job is run by the ingress replica that has its lease, at first the one that accepted it. If that replica is lost, the
lease ends and another one takes the job. Jobs wait for capacity behind requests, as background work. A webhook is
called by the replica that has the lease, at least once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import partial
from typing import Any, Literal, TypeVar

from serve_app.contract import CaptionBody, JobBody, JobError
from serve_app.deadline import Deadline
from serve_app.errors import CaptionServeError, JobsUnavailable, JobUnknown, Overloaded
from serve_app.options import parse_options
from serve_app.retry import Retries, retried
from serve_app.service.captions import CaptionService
from serve_app.service.job_store import JobStore
from serve_app.service.quota import OWNER
from serve_app.service.sources import RemoteImage
from serve_app.service.webhooks import Webhooks

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

LEASE_S = 30.0
LOOK_S = 5.0
AT_ONCE = 8
"""Jobs of a replica that are in progress or wait for capacity."""
MOST_OPEN = 10_000
MAX_TRIES = 3
"""Of a job whose replicas end while they work on it."""
STORE_THREADS = 4
"""Of their own: a storage that hangs must not hold up what other requests do in threads."""
MAX_RETRIES = 8
"""Of a caption that fails although it may succeed later: some two minutes."""
RETRY_AFTER_S = 60.0


class Jobs:
    """For one event loop. Its own work begins with the first job, or with `start`."""

    def __init__(self, captions: CaptionService, store: JobStore, webhooks: Webhooks) -> None:
        self._captions = captions
        self._store = store
        self._webhooks = webhooks
        self._me = uuid.uuid4().hex
        self._running: dict[str, asyncio.Task[None]] = {}
        self._captioning: set[str] = set()
        self._look: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._threads = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="jobs")

    async def submit(
        self, image: bytes | RemoteImage, options: Mapping[str, Any], webhook: str | None = None
    ) -> JobBody:
        """Accepts a caption. Raises what its options and the URL of the webhook raise, `Overloaded`, and
        `JobsUnavailable`."""
        limits = self._captions.limits
        resolved = parse_options(dict(options), limits)
        if webhook is not None:
            self._webhooks.check(webhook, limits)
        if len(await self._stored(self._store.open_jobs)) >= MOST_OPEN:
            raise Overloaded("There are too many captions in progress; try again later.", RETRY_AFTER_S)
        async with self._captions.charged(self._captions.work(options)):
            data: bytes = await self._captions.fetched(image, Deadline.after(resolved.timeout_s))
        stored = _Stored(
            id=uuid.uuid4().hex,
            status="queued",
            webhook="waiting" if webhook else None,
            owner=OWNER.get(),
            options=dict(options),
            webhook_url=webhook,
        )
        await self._put(stored, data)
        self.start()
        self._room.set()
        return stored.body()

    async def find(self, job_id: str) -> JobBody:
        """Raises `JobUnknown`, also for a job of another key, and `JobsUnavailable`."""
        return (await self._owned(job_id)).body()

    async def cancel(self, job_id: str) -> JobBody:
        """Ends a job that has not ended; another replica notices within seconds. Raises as `find` does."""
        if (await self._owned(job_id)).status in ("queued", "running"):
            await self._stored(self._store.cancel, job_id)
            if (task := self._running.get(job_id)) is not None:
                task.cancel()
            await self._stored(self._store.close, job_id)
        return (await self._owned(job_id)).body()

    def start(self) -> None:
        """Looks after jobs that no replica has."""
        if self._look is None or self._look.done():
            # Nothing of a request that is running: its key was charged, its line in the log is its own.
            self._look = asyncio.create_task(self._look_after(), context=Context())

    async def stop(self) -> None:
        """Gives up what is in progress; other replicas take it when its leases end."""
        tasks = [task for task in (self._look, *self._running.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _owned(self, job_id: str) -> _Stored:
        stored = await self._find(job_id) if _ID.fullmatch(job_id) else None
        if stored is None or stored.owner != OWNER.get():
            raise JobUnknown("There is no such caption, or its time is over.")
        return stored

    async def _find(self, job_id: str) -> _Stored | None:
        data = await self._stored(self._store.state, job_id)
        if data is None:
            return None
        stored = _Stored.model_validate_json(data)
        if stored.status in ("queued", "running") and await self._stored(self._store.is_cancelled, job_id):
            return stored.model_copy(update={"status": "cancelled", "webhook": None})
        return stored

    async def _put(self, stored: _Stored, data: bytes | None = None) -> None:
        await self._stored(self._store.put, stored.id, stored.model_dump_json().encode(), data)

    async def _stored(self, method: Callable[..., Result], *arguments: Any) -> Result:
        """What a method of the store returns, called in a thread. Raises `JobsUnavailable`."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, method, *arguments)
        except OSError as error:
            logger.warning("the storage of jobs failed", exc_info=True)
            raise JobsUnavailable("Captions that outlive their request cannot be stored at present.") from error

    async def _look_after(self) -> None:
        while True:
            with contextlib.suppress(JobsUnavailable):  # which is in the log
                await self._take_what_fits()
            with contextlib.suppress(TimeoutError):  # not wait_for, which may lose a cancellation before Python 3.12
                async with asyncio.timeout(LOOK_S):
                    await self._room.wait()

    async def _take_what_fits(self) -> None:
        """Begins the oldest jobs that no replica has, as many as there is room for here."""
        self._room.clear()
        for job_id in await self._stored(self._store.open_jobs):
            if len(self._captioning) >= AT_ONCE:
                return
            if job_id in self._running or not await self._stored(self._store.lease, job_id, self._me, LEASE_S):
                continue
            self._captioning.add(job_id)
            self._running[job_id] = asyncio.create_task(self._run(job_id))
            self._running[job_id].add_done_callback(partial(self._end, job_id))

    def _end(self, job_id: str, _: asyncio.Task[None]) -> None:
        del self._running[job_id]
        self._captioned(job_id)

    def _captioned(self, job_id: str) -> None:
        self._captioning.discard(job_id)
        self._room.set()

    async def _run(self, job_id: str) -> None:
        renewing = asyncio.create_task(self._renew(job_id, asyncio.current_task()))
        try:
            await self._work(job_id)
        except JobsUnavailable:  # the job stays open, and is looked at again
            await asyncio.sleep(LOOK_S)
        except Exception:  # of a state that cannot be read, for example
            logger.exception("job %s cannot be run", job_id)
            await asyncio.sleep(LEASE_S)
        finally:
            renewing.cancel()

    async def _work(self, job_id: str) -> None:
        stored = await self._find(job_id)
        if stored is not None and stored.status in ("queued", "running"):
            stored = await self._captioned_by_now(stored)
        self._captioned(job_id)
        if stored is not None and stored.status in ("done", "failed") and stored.webhook == "waiting":
            await self._put(stored.model_copy(update={"webhook": await self._called(stored)}))
        await self._stored(self._store.close, job_id)

    async def _captioned_by_now(self, stored: _Stored) -> _Stored | None:
        """The job as it has ended; None if it was cancelled meanwhile."""
        stored = stored.model_copy(update={"status": "running", "tries": stored.tries + 1})
        data = await self._stored(self._store.data, stored.id)
        if data is None or stored.tries > MAX_TRIES:
            why = "The image is not stored any more." if data is None else "Its service ended each time it was tried."
            found = JobError(type="internal", status=500, detail=why)
            ended = stored.model_copy(update={"status": "failed", "error": found})
        else:
            await self._put(stored)
            OWNER.set(stored.owner)
            ended = await self._ended(stored, data)
        now = await self._find(stored.id)
        if now is None or now.status == "cancelled":
            return None
        await self._put(ended)
        await self._stored(self._store.drop_data, stored.id)
        return ended

    async def _ended(self, stored: _Stored, data: bytes) -> _Stored:
        waits = Deadline.after(self._captions.limits.job_kept_s)

        async def caption() -> CaptionBody:
            return await self._captions.caption(data, stored.options, stored.id, queue_until=waits)

        try:
            result = await retried(caption, Retries(MAX_RETRIES, waits))
            return stored.model_copy(update={"status": "done", "result": result})
        except CaptionServeError as error:
            found = JobError(type=error.slug, status=error.status, detail=error.message)
        except Exception:
            logger.exception("job %s failed", stored.id)
            found = JobError(type="internal", status=500, detail="The service failed; its log has the details.")
        return stored.model_copy(update={"status": "failed", "error": found})

    async def _called(self, stored: _Stored) -> Literal["called", "failed"]:
        assert stored.webhook_url is not None
        event = f"caption.{stored.status}"
        body = stored.body().model_dump(exclude={"webhook"})
        try:
            await self._webhooks.call(stored.webhook_url, stored.id, event, body, self._captions.limits)
        except CaptionServeError as error:
            logger.warning("the webhook of job %s was not called: %s", stored.id, error.message)
            return "failed"
        return "called"

    async def _renew(self, job_id: str, work: asyncio.Task[Any] | None) -> None:
        """Keeps the lease. Ends the work if another replica was told to end the job, or has it."""
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(JobsUnavailable):
                mine = await self._stored(self._store.lease, job_id, self._me, LEASE_S)
                stored = await self._find(job_id)
                if not mine or stored is None or stored.status == "cancelled":
                    assert work is not None
                    work.cancel()


class _Stored(JobBody):
    """A job as it is stored."""

    owner: str
    """Name of the key that it was accepted for; empty without keys."""
    options: dict[str, Any]
    webhook_url: str | None
    tries: int = 0
    """How often a replica has begun it."""

    def body(self) -> JobBody:
        return JobBody.model_validate(self.model_dump(include=set(JobBody.model_fields)))


_ID = re.compile(r"[0-9a-f]{32}")
