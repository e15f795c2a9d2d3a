"""A job from its source to its last shard."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from serve_app.batch import index, marks, refresh, sinks, sources, state
from serve_app.batch.flow import Flow, connected, made_by, taken
from serve_app.batch.folder import Folder, reason_of
from serve_app.batch.inputs import Input
from serve_app.batch.names import Names, below, sidecars
from serve_app.batch.progress import Display, Tally
from serve_app.batch.rows import Row, failed
from serve_app.batch.settings import MADE_BY, JobSettings, RunSettings
from serve_app.batch.state import Pass, Plan
from serve_app.errors import InvalidOption

FLUSH_S = 5.0
"""A kill loses the rows of at most this long, and what the engines were at."""

FOLDERS_REMEMBERED = 64
QUIET_S = 60.0
NO_ROWS_YET = "There are no rows yet: the engines load their model, or wait for room on the cluster (`ray status`)."


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a job."""

    tally: Tally
    seconds: float
    finished: bool


def planned(
    folder: Folder,
    settings: JobSettings,
    restart: bool,
    tell: Callable[[str], None],
    retry_failed: bool = False,
    refresh_outdated: Callable[[], str] | None = None,
) -> Plan:
    """The stored plan of this job, or a new one. Raises `InvalidOption` if the output is another job's.

    `refresh_outdated` returns the fingerprint of captions that are made now: others are made again.
    """
    if restart:
        _drop(folder)
    stored = state.load_plan(folder)
    if stored is not None:
        if difference := stored.settings.difference(settings, MADE_BY if refresh_outdated else ()):
            raise InvalidOption(
                f"{folder.url} holds a job with other settings: {difference}. Use --restart to drop it."
            )
        if refresh_outdated:
            stored = stored.model_copy(update={"settings": settings})
            current = refresh_outdated()
            state.store_plan(folder, stored)
            refresh.reopen(folder, settings, current, tell)
        return extended(folder, stored, retry_failed, tell)
    if state.parts(folder):
        raise InvalidOption(
            f"{folder.url} has output files and no job that they belong to; use another folder or --restart."
        )
    found = sources.Found()
    names = Names()
    listed = _named(sources.inputs(settings, found), folder, settings, found, names, skip=settings.skip_existing)
    total, shards = index.store(folder, listed, settings.shard_size)
    names.close()
    if found.not_ours and not settings.overwrite:
        raise InvalidOption(
            f"{found.not_ours:,} images have a {settings.sidecar_suffix} file that this job did not write. "
            "--skip-existing leaves these images out, --overwrite replaces the files."
        )
    if not total and not found.existing:
        others = ", ".join(f"{count} {suffix}" for suffix, count in found.other.most_common(3))
        hint = f"; it has {others}, which a glob such as '{settings.source}/*.tar' names" if others else ""
        raise InvalidOption(f"There are no images in {settings.source!r}{hint}.")
    first = Pass(first=0, shards=shards, inputs=total)
    plan = Plan(settings=settings, passes=(first,), other=dict(found.other), existing=found.existing)
    state.store_plan(folder, plan)
    tell(f"{total:,} inputs in {shards:,} shards.")
    return plan


def _drop(folder: Folder) -> None:
    """Removes the job and the files that it wrote, as far as they are as it wrote them."""
    with contextlib.suppress(InvalidOption, FileNotFoundError):  # another version's: its sidecars are not known
        plan = state.load_plan(folder)
        if plan is not None and plan.settings.sink == "sidecar":
            for shard in {*state.done_shards(folder), *state.aside_shards(folder)}:
                sinks.remove_sidecars(folder, shard, index.load(folder, shard), plan.settings)
    state.clear(folder)


def extended(folder: Folder, plan: Plan, retry_failed: bool, tell: Callable[[str], None]) -> Plan:
    """The plan of a finished job with what its source has besides now, and with its failed inputs if these are to be
    tried again, as they are if an image with a sidecar is to be left out. Files that are finished stay as they are."""
    if {*state.done_shards(folder)} < {*plan.shards}:
        return plan
    settings, found, known = plan.settings, sources.Found(), Names()
    names, lost = Names(), dict[bytes, tuple[Input, str]]()
    for shard, mark in state.done_marks(folder):
        for place, item in enumerate(index.load(folder, shard)):
            known.add(item.key)
            if item.sidecar:
                names.add(os.fsencode(item.sidecar))
            lost.pop(item.key, None)
            if not item.error and (reason := mark.failed.get(str(place))):
                lost[item.key] = item, reason
    again = lost.values() if retry_failed or settings.skip_existing else ()

    def more() -> Iterator[Input]:
        yield from (item for item, _ in again)
        listed = (item for item in sources.inputs(settings, found) if known.add(item.key))
        yield from _named(listed, folder, settings, found, names, skip=not settings.overwrite)

    first = index.next_first(plan.shards[-1] + 1 if plan.shards else 0)
    total, shards = index.store(folder, more(), settings.shard_size, first)
    known.close()
    names.close()
    if not total:
        return plan
    retried = Counter(reason for _, reason in again)
    added = Pass(first=first, shards=shards, inputs=total, retried=dict(retried))
    plan = Plan(settings=settings, passes=(*plan.passes, added), other=dict(found.other), existing=plan.existing)
    state.store_plan(folder, plan)
    tell(f"{total - retried.total():,} new inputs, {retried.total():,} failed ones again.")
    return plan


def _named(
    listed: Iterable[Input], folder: Folder, settings: JobSettings, found: sources.Found, names: Names, *, skip: bool
) -> Iterator[Input]:
    """The inputs, each with a sidecar that no other one has; with `skip` without those whose sidecar exists."""
    has = _existing(folder)
    for item in listed:
        name = below(item.name)
        if settings.sink != "sidecar" or item.error:
            yield item
        elif name is None:
            yield replace(item, error=f"unsafe_name: {item.path[:300]} names no file below the output.")
        else:
            sidecar = names.take(sidecars(name, settings.sidecar_suffix))
            exists = has(sidecar)
            found.existing += exists and skip
            found.not_ours += exists and not skip
            if not (exists and skip):
                yield replace(item, sidecar=sidecar)


def _existing(folder: Folder) -> Callable[[str], bool]:
    """Whether the output has a file. A bucket is asked once for a folder: an answer takes it milliseconds."""
    if folder.is_local:
        return folder.exists
    names = functools.lru_cache(FOLDERS_REMEMBERED)(lambda parent: frozenset(folder.names(parent)))

    def exists(name: str) -> bool:
        parent, _, base = name.rpartition("/")
        return base in names(parent)

    return exists


class Job:
    """Runs what a plan has left to do. One thread; Ray does the work."""

    def __init__(self, folder: Folder, plan: Plan, run: RunSettings, lock: state.Lock) -> None:
        self._folder = folder
        self._plan = plan
        self._run = run
        self._lock = lock
        self._journal = state.Journal(folder)
        self._done = set(state.done_shards(folder))
        self._open = self._journal.read(self._done)
        self.tally = Tally(plan.inputs)
        for _, mark in state.done_marks(folder):
            self._count_mark(mark)
        self.tally.reasons.subtract(plan.retried)
        for rows in self._open.values():
            for row in rows.values():
                self._count(row)

    def run(self, display: Display) -> Summary:
        """Raises `InvalidOption`, `ModelError`s, and `OSError` when the output cannot be written."""
        start = time.monotonic()
        display.say(self._beginning())
        for shard in [shard for shard, rows in self._open.items() if len(rows) == self._plan.size_of(shard)]:
            self._finish(shard)
        todo = [shard for shard in self._plan.shards if shard not in self._done]
        todo.sort(key=lambda shard: (shard not in self._open, shard))
        finished = True
        if todo:
            have = {shard: frozenset(rows) for shard, rows in self._open.items()}
            flow = Flow(self._folder, self._plan.settings, self._run, todo, have)
            finished = self._follow(flow, display)
        return Summary(self.tally, time.monotonic() - start, finished)

    def _beginning(self) -> str:
        had = (
            f"{self.tally.rows:,} of {self.tally.total:,} inputs have their rows; going on. " if self.tally.rows else ""
        )
        return f"{had}{self._plan.inputs - self.tally.rows:,} to do."

    def _follow(self, flow: Flow, display: Display) -> bool:
        """Takes rows in as they come; False when there were too many errors."""
        flushed = time.monotonic()
        patience = threading.Timer(QUIET_S, display.say, [NO_ROWS_YET])
        patience.start()
        try:
            for rows in flow.rows():
                patience.cancel()
                for shard, place, row, reused in rows:
                    self._take(shard, place, row, reused)
                if self._too_many():
                    display.say(f"More than {self._run.max_errors} errors: the job stops here.")
                    return False
                self._lock.beat()
                if time.monotonic() - flushed > FLUSH_S:
                    self._journal.flush()
                    flushed = time.monotonic()
                display.show(flow.in_progress())
        finally:
            patience.cancel()
            self._journal.flush()
            flow.close()
        return True

    def _take(self, shard: int, place: int, row: Row, reused: int) -> None:
        """A row that is here already comes again when Ray repeats a task whose node was lost."""
        if shard in self._done or place in (rows := self._open.setdefault(shard, {})):
            return
        rows[place] = {**row, "reused": reused} if reused else row
        self._journal.add(shard, place, rows[place])
        self._count(rows[place])
        self.tally.here += 1
        if len(rows) == self._plan.size_of(shard):
            self._finish(shard)

    def _finish(self, shard: int) -> None:
        self._journal.flush()
        settings = self._plan.settings
        inputs = index.load(self._folder, shard)
        rows = [row for _, row in sorted(self._open[shard].items())]
        again = state.is_aside(self._folder, shard)
        if again:
            rows = self._not_worse(shard, rows)
        plain = [{name: value for name, value in row.items() if name != "reused"} for row in rows]
        for place, (reason, sentence) in sinks.write(self._folder, shard, inputs, plain, settings, again=again).items():
            self._count(rows[place], -1)
            rows[place] = failed(inputs[place], reason, sentence, settings)
            self._count(rows[place])
        state.mark_done(self._folder, shard, marks.mark_of(rows))
        del self._open[shard]
        self._done.add(shard)
        self._journal.forget(shard)

    def _not_worse(self, shard: int, rows: list[Row]) -> list[Row]:
        """The rows of a shard that is made again; if the new try failed, the old caption stays, outdated."""
        with contextlib.suppress(FileNotFoundError):
            before = refresh.rows_of(self._folder, shard, state.aside_mark(self._folder, shard), self._plan.settings)
            for place, row in enumerate(rows):
                if row["caption"] is None and before[place]["caption"] is not None:
                    self._count(row, -1)
                    rows[place] = before[place]
                    self._count(rows[place])
        return rows

    def _too_many(self) -> bool:
        return self._run.max_errors is not None and self.tally.failed > self._run.max_errors

    def _count(self, row: Row, times: int = 1) -> None:
        if row["caption"] is None:
            self.tally.reasons[row["reason"]] += times
        else:
            self.tally.captioned += times
            self.tally.reused += times * row.get("reused", 0)

    def _count_mark(self, mark: marks.Mark) -> None:
        self.tally.captioned += mark.captioned
        self.tally.reused += mark.reused
        self.tally.reasons.update(mark.reasons)


def run_job(settings: JobSettings, run: RunSettings) -> Summary:
    """The whole job. Raises `InvalidOption`s and `ModelError`s before anything is captioned, `OSError` for storage."""
    folder = Folder(run.out)
    try:
        folder.write(f"{state.JOB}/writable", b"")
        folder.remove(f"{state.JOB}/writable")
    except OSError as error:
        raise InvalidOption(f"{run.out} cannot be written to: {reason_of(error)}.") from error
    lock = state.Lock(folder)
    lock.acquire()
    try:
        with connected(run.address):
            taken(settings)
            current = functools.partial(made_by, settings) if run.refresh_outdated else None
            plan = planned(folder, settings, run.restart, _say, run.retry_failed, current)
            job = Job(folder, plan, run, lock)
            with Display(job.tally) as display:
                return job.run(display)
    finally:
        lock.release()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
