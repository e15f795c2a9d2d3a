"""What a job has done, on storage, so that it goes on after any kill: settings, lock, journal, finished shards.

    _job/job.json           settings and sizes; written last when the index is whole
    _job/inputs/…           the index
    _job/open/….jsonl       rows of shards that are not finished yet
    _job/done/NNNNN.json    one for each finished shard: its counts and a sample of its rows
    _job/aside/NNNNN.json   the same of a shard that was finished and is made again in part
    _job/rows/….parquet     rows of finished shards whose output is sidecars
    _job/lock.json          who is at it now

A shard is finished in this order: its rows are in the journal, its output appears, its marker appears, its rows leave
the journal. A kill between any two of them repeats the next step with the same rows.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict, Field

from serve_app.batch import sinks
from serve_app.batch.folder import Folder
from serve_app.batch.marks import Mark
from serve_app.batch.names import OWN_FOLDER
from serve_app.batch.rows import Row
from serve_app.batch.settings import JobSettings
from serve_app.errors import InvalidOption

JOB = OWN_FOLDER
LOCK_STALE_S = 60.0
"""A lock whose time is older belongs to nobody."""


class Pass(BaseModel):
    """Inputs that were found together: when the job began, or when it went on with what was new or had failed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: int
    """Number of its first shard."""
    shards: int
    inputs: int
    retried: dict[str, int] = Field(default_factory=dict)
    """How many inputs of earlier passes it tries again, by the reason for which they had failed."""


class Plan(BaseModel):
    """The job as it was stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: JobSettings
    passes: tuple[Pass, ...]
    other: dict[str, int]
    """Files left alone, by why."""
    existing: int
    """Inputs left out because their sidecar was there."""

    @property
    def inputs(self) -> int:
        return sum(each.inputs - sum(each.retried.values()) for each in self.passes)

    @property
    def shards(self) -> list[int]:
        return [shard for each in self.passes for shard in range(each.first, each.first + each.shards)]

    @property
    def retried(self) -> Counter[str]:
        return sum((Counter(each.retried) for each in self.passes), Counter())

    def size_of(self, shard: int) -> int:
        """Inputs of a shard: all of a pass have as many, the last one the rest."""
        size = self.settings.shard_size
        its = next(each for each in reversed(self.passes) if each.first <= shard)
        return size if shard < its.first + its.shards - 1 else its.inputs - size * (its.shards - 1)


def load_plan(folder: Folder) -> Plan | None:
    """None if no index was finished. Raises `InvalidOption` if the file is not ours."""
    if not folder.exists(f"{JOB}/job.json"):
        return None
    try:
        return Plan.model_validate_json(folder.read(f"{JOB}/job.json"))
    except (ValueError, InvalidOption) as error:
        raise InvalidOption(f"{folder.url}/{JOB} is of another version of this job; use --restart.") from error


def store_plan(folder: Folder, plan: Plan) -> None:
    folder.write(f"{JOB}/job.json", plan.model_dump_json(indent=1).encode())


def clear(folder: Folder) -> None:
    """Removes a job and the output files that jobs write; the lock stays, and whatever else is there."""
    for name in ("job.json", "summary.json", "report.html"):
        folder.remove(f"{JOB}/{name}")
    for name in ("inputs", "open", "done", "aside", "rows"):
        folder.remove_folder(f"{JOB}/{name}")
    for name in parts(folder):
        folder.remove(name)


def parts(folder: Folder) -> list[str]:
    """Output files of jobs in the folder."""
    endings = tuple(suffix for suffix in sinks.SUFFIXES.values() if suffix)
    return [name for name in folder.names() if name.startswith("part-") and name.endswith(endings)]


def done_shards(folder: Folder) -> list[int]:
    return [int(name.partition(".")[0]) for name in folder.names(f"{JOB}/done") if name.endswith(".json")]


def done_marks(folder: Folder) -> list[tuple[int, Mark]]:
    """Numbers of the finished shards, and what their markers say."""
    return [(shard, _mark_of(folder, shard)) for shard in done_shards(folder)]


def aside_mark(folder: Folder, shard: int) -> Mark:
    """The marker of a shard that is made again in part."""
    return _mark_of(folder, shard, "aside")


def _mark_of(folder: Folder, shard: int, where: str = "done") -> Mark:
    """Raises `InvalidOption` if the marker is not ours."""
    try:
        return Mark(**json.loads(folder.read(_mark(shard, where))))
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"{folder.url}/{JOB} is of another version of this job; use --restart.") from error


def mark_done(folder: Folder, shard: int, mark: Mark) -> None:
    """The shard's output is there. Doing it twice is doing it once."""
    folder.write(_mark(shard), json.dumps(asdict(mark), ensure_ascii=False).encode())
    if is_aside(folder, shard):
        folder.remove(_mark(shard, "aside"))


def set_aside(folder: Folder, shard: int) -> None:
    """The shard is finished no more; its output stays until it is written again."""
    folder.write(_mark(shard, "aside"), folder.read(_mark(shard)))
    folder.remove(_mark(shard))


def aside_shards(folder: Folder) -> list[int]:
    return [int(name.partition(".")[0]) for name in folder.names(f"{JOB}/aside") if name.endswith(".json")]


def is_aside(folder: Folder, shard: int) -> bool:
    return folder.exists(_mark(shard, "aside"))


def _mark(shard: int, folder: str = "done") -> str:
    return f"{JOB}/{folder}/{shard:05d}.json"


class Journal:
    """Rows of unfinished shards, in files that are written once and removed when all their shards are finished."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._files: dict[str, set[int]] = {}
        self._pending: list[str] = []
        self._pending_shards: set[int] = set()

    def read(self, done: set[int]) -> dict[int, dict[int, Row]]:
        """The rows, by shard and place, that earlier runs left."""
        found: dict[int, dict[int, Row]] = {}
        for name in self._folder.names(f"{JOB}/open"):
            shards = self._files[f"{JOB}/open/{name}"] = set[int]()
            for line in self._folder.read(f"{JOB}/open/{name}").splitlines():
                shard, place, row = json.loads(line)
                if shard not in done:
                    shards.add(shard)
                    found.setdefault(shard, {})[place] = row
        self.forget(-1)
        return found

    def add(self, shard: int, place: int, row: Row) -> None:
        self._pending.append(json.dumps([shard, place, row], ensure_ascii=False))
        self._pending_shards.add(shard)

    def compact(self, done: set[int]) -> None:
        """Leaves only rows of shards that are not finished: those of a shard that is opened again are old."""
        old = list(self._files)
        for shard, rows in self.read(done).items():
            for place, row in rows.items():
                self.add(shard, place, row)
        old += [name for name in self._files if name not in old]
        self.flush()
        for name in old:
            if self._files.pop(name, None) is not None:
                self._folder.remove(name)

    def flush(self) -> None:
        """What was added is on storage after this."""
        if self._pending:
            name = f"{JOB}/open/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.jsonl"
            self._folder.write(name, "\n".join(self._pending).encode())
            self._files[name] = self._pending_shards
            self._pending, self._pending_shards = [], set()

    def forget(self, shard: int) -> None:
        """The shard is finished: files that hold no other unfinished one go."""
        for name, shards in list(self._files.items()):
            shards.discard(shard)
            if not shards:
                self._folder.remove(name)
                del self._files[name]


class Lock:
    """Keeps two runs of one job apart. `beat` renews it and raises `InvalidOption` when another run has taken it."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._name = f"{JOB}/lock.json"
        self._token = uuid.uuid4().hex
        self._beaten = 0.0

    def acquire(self) -> None:
        """Raises `InvalidOption` while another run is alive; waits for one whose machine is silent."""
        deadline = time.monotonic() + LOCK_STALE_S + 5
        while (holder := self._holder()) is not None and not _is_dead(holder):
            here = holder["host"] == socket.gethostname()
            if here or time.monotonic() > deadline:
                where = f"process {holder['pid']}" if here else holder["host"]
                raise InvalidOption(f"{self._folder.url}: another run of this job is in progress ({where}).")
            time.sleep(2)
        self._write()
        if (holder := self._holder()) is None or holder["token"] != self._token:
            raise InvalidOption(f"{self._folder.url}: another run of this job has just begun.")

    def beat(self) -> None:
        if time.monotonic() - self._beaten < LOCK_STALE_S / 6:
            return
        holder = self._holder()
        if holder is None or holder["token"] != self._token:
            raise InvalidOption(f"{self._folder.url}: another run of this job has taken over.")
        self._write()

    def release(self) -> None:
        holder = self._holder()
        if holder is not None and holder["token"] == self._token:
            self._folder.remove(self._name)

    def _write(self) -> None:
        process = psutil.Process()
        stored = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": process.create_time(),
            "time": time.time(),
        }
        self._folder.write(self._name, json.dumps(stored).encode())
        self._beaten = time.monotonic()

    def _holder(self) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self._folder.read(self._name)))
        except (FileNotFoundError, ValueError):
            return None


def _is_dead(holder: Mapping[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return time.time() - float(holder["time"]) > LOCK_STALE_S
    try:
        process = psutil.Process(holder["pid"])
        return abs(process.create_time() - holder["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
