"""The decode engine behind the Generator protocol: its own thread, futures, deadlines, health."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from serve_app.engine.counters import Counters
from serve_app.engine.engine import BROKEN, Engine
from serve_app.engine.loading import Loaded
from serve_app.engine.parameters import limit, resolve, unsupported
from serve_app.engine.prompts import PromptCodec
from serve_app.engine.scheduler import Group, Hypothesis
from serve_app.errors import CaptionServeError, DeadlineExceeded, GeneratorUnavailable
from serve_app.types import EngineLimits, Generated, GenerateJob, ModelInfo, OnOutcome, Outcome, Pixels

logger = logging.getLogger(__name__)

STALL_S = 120.0
"""A step that takes longer than this is taken for one that never ends."""

GRACE_S = 5.0
"""A caller waits so long beyond its deadline for the engine to say so."""

_Result = list[Hypothesis] | CaptionServeError


class AsyncEngine:
    """Generator over `Engine`. Jobs of all calls run together; each result returns as soon as it is there."""

    def __init__(self, loaded: Loaded, limits: EngineLimits | None = None) -> None:
        """Takes the model over. Raises `ModelError`s."""
        self._info = loaded.info
        self._engine = Engine(loaded, limits or EngineLimits())
        text: Any = loaded.model.config.text_config
        self._codec = PromptCodec(loaded.tokenizer, text.bos_token_id, text.sep_token_id)
        self._defaults = loaded.model.text_decoder.generation_config
        if ignored := unsupported(loaded.model.generation_config):
            logger.warning("The checkpoint %s asks for %s, which the engine has not.", loaded.info.name, ignored)
        self._max_length: int | None = loaded.model.generation_config.max_length
        self._inbox: queue.SimpleQueue[Group | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._busy_since: float | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="decode-engine", daemon=True)
        self._thread.start()
        started.result()

    @property
    def counters(self) -> Counters:
        return self._engine.counters

    async def info(self) -> ModelInfo:
        return self._info

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Runs the jobs together. Cancelling the call drops them at the engine's next step.

        Raises `GeneratorUnavailable` when the engine is closed or its thread died.
        """
        self._check_alive()
        deadline = None if timeout_s is None else time.monotonic() + timeout_s

        async def run(index: int, job: GenerateJob) -> Outcome:
            outcome = await self._generate(pixels, job, deadline)
            if on_outcome is not None:
                on_outcome(index, outcome)
            return outcome

        tasks = [asyncio.ensure_future(run(index, job)) for index, job in enumerate(jobs)]
        try:
            outcomes = list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # of a call that failed, or that nobody waits for any more
                task.cancel()
        lost = [outcome for outcome in outcomes if isinstance(outcome, GeneratorUnavailable)]
        if lost and len(lost) == len(outcomes):
            raise lost[0]
        return outcomes

    def check_health(self) -> None:
        """Raises `GeneratorUnavailable` when the thread died or hangs in a step."""
        self._check_alive()
        since = self._busy_since
        if since is not None and time.monotonic() - since > STALL_S:
            raise GeneratorUnavailable(f"The engine has been in one step for more than {STALL_S:.0f} s.")

    def close(self) -> None:
        """Ends what runs and waits with `GeneratorUnavailable`, and the thread after its current step."""
        self._closing.set()
        self._inbox.put(None)
        self._thread.join()

    def check_integrity(self) -> None:
        """Asserts that nothing leaked. For an engine at rest."""
        self._engine.check_integrity()

    async def _generate(self, pixels: Pixels, job: GenerateJob, deadline: float | None) -> Outcome:
        try:
            prompt = self._codec.encode(job.prompt)
            longest = limit(job.parameters, self._max_length, self._info.max_positions)
            parameters = resolve(job.parameters, self._defaults, longest, len(prompt))
        except CaptionServeError as error:
            return error
        future: Future[_Result] = Future()

        def finish(result: _Result) -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(result)

        self._inbox.put(Group(pixels, prompt, parameters, job.seed, finish, future.cancelled, deadline))
        if self._closing.is_set():
            # The thread may have emptied the inbox for the last time already.
            self._end_inbox()
        try:
            # The engine's thread ends what is out of time; this is for one that hangs in a step.
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic()) + GRACE_S):
                result = await asyncio.wrap_future(future)
        except TimeoutError:
            return DeadlineExceeded("Its time ran out.")
        if isinstance(result, CaptionServeError):
            return result
        first, *others = [self._codec.generated(prompt, found.ids, found.score) for found in result]
        return first if not others else _with_alternatives(first, others)

    def _check_alive(self) -> None:
        if self._closing.is_set() or not self._thread.is_alive():
            raise GeneratorUnavailable("The engine is closed.")

    def _run(self, started: Future[None]) -> None:
        try:
            self._engine.warm_up()
            started.set_result(None)
        except Exception as error:
            self._closing.set()
            started.set_exception(error)
            return
        try:
            while not self._closing.is_set():
                self._receive()
                self._busy_since = time.monotonic()
                self._engine.step()
                self._busy_since = None
        except Exception:
            logger.exception("the engine's thread ends")
        finally:
            self._closing.set()
            self._busy_since = None
            try:
                self._engine.fail_all(GeneratorUnavailable("The engine was closed."))
            finally:
                self._end_inbox()

    def _receive(self) -> None:
        """Takes in new groups; waits for one when there is nothing else to do."""
        while True:
            try:
                group = self._inbox.get(block=self._engine.idle)
            except queue.Empty:
                return
            if group is None:
                return
            try:
                self._engine.submit(group)
            except CaptionServeError as error:
                group.finish(error)
            except Exception:
                logger.exception("a request could not be queued")
                group.finish(BROKEN)

    def _end_inbox(self) -> None:
        while True:
            try:
                group = self._inbox.get_nowait()
            except queue.Empty:
                return
            if group is not None:
                group.finish(GeneratorUnavailable("The engine was closed."))


def _with_alternatives(first: Generated, others: list[Generated]) -> Generated:
    return Generated(first.text, first.prompt, first.log_probability, first.tokens, tuple(others))
