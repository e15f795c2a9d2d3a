"""The job's stages on Ray Data: shard numbers → read and decode on CPUs → caption in actors → rows to this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ray
import ray.data
from ray.exceptions import RayActorError, RayError, RayTaskError

from serve_app.args import AppArgs
from serve_app.batch import claims
from serve_app.batch.folder import Folder, reason_of
from serve_app.batch.intake import Reader
from serve_app.batch.settings import JobSettings, RunSettings
from serve_app.batch.worker import Worker
from serve_app.errors import CaptionServeError, GenerationFailed, InvalidOption, ModelError
from serve_app.types import ModelInfo, Size, Strategy

READING_CPUS = 0.5
"""Of a reading task, which waits for storage about as long as it decodes."""
FILES_CPUS, ASKING_CPUS = 0.05, 0.1
"""Of the two stages of a job by handle, which must fit beside a running service. They differ, because Ray Data
fuses stages of equal needs, and then reads and asks in turn."""
BATCHES_AT_ONCE = 3
"""Batches in each actor: while the last images of one are decoded, those of the next fill the engine's rows."""
MAX_READING_TASKS = 4096
"""Ray Data keeps something for every task; beyond as many shards a task reads several."""
RAW_BATCH_BYTES = 4_000_000
MAX_INIT_DEATHS = 2
ASK_S = 1.0
CONNECT_S = 10.0


class DoneRow(NamedTuple):
    shard: int
    place: int
    row: dict[str, Any]
    reused: int
    """1 if the image was a duplicate."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """A Ray cluster: "local" starts one in this process, "auto" and addresses join one.

    Raises `InvalidOption` when it cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    _check_listens(address)
    local: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InvalidOption(f"There is no Ray cluster at {address!r}: {str(error).splitlines()[0]}") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own, set by `init`, exits without cleaning up
    try:
        yield
    finally:
        ray.shutdown()


def _check_listens(address: str) -> None:
    """Ray itself tries for minutes if nobody listens. Raises `InvalidOption`."""
    host, _, port = address.rpartition(":")
    if host and "/" not in host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
        except OSError as error:
            raise InvalidOption(f"There is no Ray cluster at {address!r}: {reason_of(error)}.") from error


def taken(settings: JobSettings) -> tuple[Size, ...] | None:
    """At which sizes the captioners take images, from their files; None if a service decodes.

    Raises `ModelError`s, and `InvalidOption` when the service is not there or lacks what the job needs.
    """
    args = settings.app_args()
    if settings.via_handle is not None:
        needs_matcher = settings.texts_column is not None
        answer(ray.remote(_check_service).options(num_cpus=FILES_CPUS).remote(settings.via_handle, needs_matcher))
        return None
    infos = [_info(each) for each in args.each().values()]
    return tuple(dict.fromkeys(info.size for info in infos))


def _info(args: AppArgs) -> ModelInfo:
    if args.engine == "instant":
        from serve_app.instant import INFO

        return INFO
    if args.engine == "openai":
        from serve_app.remote import info_of

        assert args.captioner_url is not None, "the settings go together"
        return info_of(args.captioner_url, args.model)
    found: ModelInfo = answer(
        ray.remote(_taken).options(num_cpus=READING_CPUS).remote(args.model, args.revision, args.variant_prompts)
    )
    return found


def _taken(model: str, revision: str | None, prompts: tuple[str, ...]) -> ModelInfo:
    from serve_app import engine  # brings torch, which this process can do without

    return engine.taken(model, revision, prompts)


def made_by(settings: JobSettings) -> str:
    """The fingerprint of the captions that the job makes now. Raises as `taken` does."""
    args, options = settings.app_args(), settings.caption_options()
    if settings.via_handle is not None:
        asked = (
            ray.remote(_service_fingerprint)
            .options(num_cpus=FILES_CPUS)
            .remote(settings.via_handle, settings.options.get("strategy"), options.use)
        )
    else:
        asked = ray.remote(_fingerprint).options(num_cpus=READING_CPUS).remote(args, options.strategy, options.use)
    return str(answer(asked))


def _fingerprint(args: AppArgs, strategy: Strategy, use: Sequence[str]) -> str:
    from serve_app.local import fingerprint

    return fingerprint(args, strategy, use)


def _service_fingerprint(application: str, strategy: Strategy | None, use: Sequence[str]) -> str:
    from serve_app.deployments.client import CaptionClient

    return asyncio.run(CaptionClient.connect(application).fingerprint(strategy, use))


def _check_service(application: str, needs_matcher: bool) -> None:
    from serve_app.deployments.client import CaptionClient

    offers = asyncio.run(CaptionClient.connect(application).describe())
    if needs_matcher and "matches" not in offers["tasks"]:
        raise InvalidOption(f"--texts needs a matcher, and the application {application!r} runs without one.")


class Flow:
    """Rows of the shards `todo` but those in `have`, as they are done, in no order."""

    def __init__(
        self,
        folder: Folder,
        settings: JobSettings,
        run: RunSettings,
        todo: Sequence[int],
        have: Mapping[int, frozenset[int]],
    ) -> None:
        takes = taken(settings)
        self._registry: Any = (
            ray.remote(claims.Claims)
            .options(num_cpus=0, max_restarts=-1, max_concurrency=1000)
            .remote(run.duplicates_window)
        )
        self._asked = 0.0
        self._in_progress = 0
        context = ray.data.DataContext.get_current()
        image_bytes = RAW_BATCH_BYTES // run.batch_size
        if takes is not None:
            image_bytes = sum(size.height * size.width * 3 for size in takes)
        # A block is one batch: they go on as soon as they are read, and an actor takes them whole.
        context.target_max_block_size = run.batch_size * (image_bytes + 512)
        context.target_min_block_size = 1
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.enable_auto_log_stats = False
        context.max_consecutive_actor_init_deaths = MAX_INIT_DEATHS
        context.raise_original_map_exception = False
        self._todo = list(todo)
        self._window = max(1, run.window // settings.shard_size)
        self._stage = (folder, settings, run, dict(have), takes)
        self._engines = Engines(settings, run)

    def rows(self) -> Iterator[list[DoneRow]]:
        """Raises `ModelError`s when the model cannot be loaded, and `GenerationFailed` when Ray gives up."""
        for start in range(0, len(self._todo), self._window):
            yield from self._rows(self._todo[start : start + self._window])

    def _rows(self, shards: Sequence[int]) -> Iterator[list[DoneRow]]:
        try:
            dataset = self._dataset(shards)
            tables: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
            for table in tables:
                columns = (table.column(name).to_pylist() for name in ("shard", "place", "row", "reused"))
                yield [
                    DoneRow(shard, place, json.loads(row), reused)
                    for shard, place, row, reused in zip(*columns, strict=True)
                ]
        except RayError as error:
            raise _ours(error) from error

    def _dataset(self, shards: Sequence[int]) -> ray.data.Dataset:
        folder, settings, run, have, takes = self._stage
        reader = Reader(folder, settings, takes, run.batch_size, have)
        engines = self._engines
        numbers = [{"shard": shard} for shard in shards]
        return (
            ray.data.from_items(numbers, override_num_blocks=min(len(shards), MAX_READING_TASKS))
            .map_batches(reader, batch_size=None, num_cpus=READING_CPUS if takes else FILES_CPUS)
            .map_batches(
                Worker,
                fn_constructor_args=(settings, engines.threads, run.concurrency, self._registry),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(
                    min_size=engines.least,
                    max_size=engines.most,
                    max_concurrent_calls_per_actor=BATCHES_AT_ONCE,
                    enable_true_multi_threading=True,
                ),
                num_cpus=engines.cpus,
                num_gpus=engines.gpus,
            )
        )

    def in_progress(self) -> int:
        """Images that engines are at, as of the last second."""
        if time.monotonic() - self._asked > ASK_S:
            self._asked = time.monotonic()
            with contextlib.suppress(RayError):
                self._in_progress = ray.get(self._registry.in_progress.remote(), timeout=ASK_S)
        return self._in_progress

    def close(self) -> None:
        with contextlib.suppress(Exception):
            ray.kill(self._registry)


class Engines:
    """How many actors there may be (`least`, `most`) and what each takes: CPUs, GPUs, torch threads."""

    def __init__(self, settings: JobSettings, run: RunSettings) -> None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        args = settings.app_args()
        here = [each for each in args.each().values() if each.engine != "openai" or each.matcher is not None]
        devices = {each.device for each in here}
        device = next(
            (device for device in devices if device.startswith("cuda")), "auto" if "auto" in devices else "cpu"
        )
        self.gpus: float = 0
        self.threads: int | None = None
        if settings.via_handle is not None:
            self.cpus: float = ASKING_CPUS
            self.least = self.most = 1
            return
        if device.startswith("cuda") or (gpus and device != "cpu"):  # nodes with GPUs may be yet to come
            self.gpus = 1
            self.cpus = run.cpus_per_engine or 1
            fitting = max(1, gpus)
        else:
            self.cpus = run.cpus_per_engine or max(1, min(4, cpus - 1))
            self.threads = int(self.cpus)
            fitting = max(1, int((cpus - READING_CPUS) // self.cpus))
        self.least = run.min_engines or 1
        self.most = max(self.least, run.max_engines or fitting)


def answer(reference: Any) -> Any:
    """What a task returned. Raises its error of ours."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise _ours(error) from error


def _ours(error: BaseException) -> CaptionServeError:
    """The error of ours that is somewhere below one of Ray's."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if isinstance(found, CaptionServeError):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    if isinstance(error, RayActorError):
        text = str(error)
        for kind in ModelError.__subclasses__():
            if kind.__name__ in text:
                line = text[text.rindex(kind.__name__) :].partition(": ")[2].splitlines()[0]
                return kind(line)
    last = [line for line in str(error).splitlines() if line.strip()]
    return GenerationFailed(f"Ray gave up: {last[-1].strip() if last else type(error).__name__}")
