"""A job from its source to its last shard."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serve_app.batch import index, marks, sinks, sources, state
from serve_app.batch.flow import Flow, connected, image_size
from serve_app.batch.folder import Folder, reason_of
from serve_app.batch.inputs import Input
from serve_app.batch.progress import Display, Tally
from serve_app.batch.rows import Row
from serve_app.batch.settings import JobSettings, RunSettings
from serve_app.batch.state import Plan
from serve_app.errors import InvalidOption

FLUSH_S = 5.0
"""A kill loses the rows of at most this long, and what the engines were at."""

QUIET_S = 60.0
NO_ROWS_YET = "There are no rows yet: the engines load their model, or wait for room on the cluster (`ray status`)."


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a job."""

    tally: Tally
    seconds: float
    finished: bool


def planned(folder: Folder, settings: JobSettings, restart: bool, tell: Callable[[str], None]) -> Plan:
    """The stored plan of this job, or a new one. Raises `InvalidOption` if the output is another job's."""
    if restart:
        state.clear(folder)
    stored = state.load_plan(folder)
    if stored is not None:
        if difference := stored.settings.difference(settings):
            raise InvalidOption(
                f"{folder.url} holds a job with other settings: {difference}. Use --restart to drop it."
            )
        return stored
    if state.parts(folder):
        raise InvalidOption(
            f"{folder.url} has output files and no job that they belong to; use another folder or --restart."
        )
    found = sources.Found()
    total, shards = index.store(folder, _inputs(folder, settings, found), settings.shard_size)
    if not total and not found.existing:
        others = ", ".join(f"{count} {suffix}" for suffix, count in found.other.most_common(3))
        hint = f"; it has {others}, which a glob such as '{settings.source}/*.tar' names" if others else ""
        raise InvalidOption(f"There are no images in {settings.source!r}{hint}.")
    plan = Plan(settings, total, shards, dict(found.other), found.existing)
    state.store_plan(folder, plan)
    tell(f"{total:,} inputs in {shards:,} shards.")
    return plan


def _inputs(folder: Folder, settings: JobSettings, found: sources.Found) -> Iterator[Input]:
    """The source's inputs; those of sidecars with names of their own, and without those that are there already."""
    listed = sources.inputs(settings, found)
    if settings.sink != "sidecar":
        yield from listed
        return
    for item in sources.with_own_sidecars(listed, settings.sidecar_suffix):
        if settings.skip_existing and folder.exists(sinks.sidecar_name(item, settings)):
            found.existing += 1
        else:
            yield item


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
        for mark in state.done_marks(folder):
            self._count_mark(mark)
        for rows in self._open.values():
            for row in rows.values():
                self._count(row)

    def run(self, display: Display) -> Summary:
        """Raises `InvalidOption`, `ModelError`s, and `OSError` when the output cannot be written."""
        start = time.monotonic()
        display.say(self._beginning())
        for shard in [shard for shard, rows in self._open.items() if len(rows) == self._plan.size_of(shard)]:
            self._finish(shard)
        todo = [shard for shard in range(self._plan.shards) if shard not in self._done]
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
        rows = [row for _, row in sorted(self._open[shard].items())]
        mark = marks.mark_of(rows)
        plain = [{name: value for name, value in row.items() if name != "reused"} for row in rows]
        state.finish(self._folder, shard, plain, self._plan.settings, dataclasses.asdict(mark))
        del self._open[shard]
        self._done.add(shard)
        self._journal.forget(shard)

    def _too_many(self) -> bool:
        return self._run.max_errors is not None and self.tally.failed > self._run.max_errors

    def _count(self, row: Row) -> None:
        if row["caption"] is None:
            self.tally.reasons[row["reason"]] += 1
        else:
            self.tally.captioned += 1
            self.tally.reused += row.get("reused", 0)

    def _count_mark(self, mark: dict[str, object]) -> None:
        stored = marks.Mark(**mark)  # type: ignore[arg-type]
        self.tally.captioned += stored.captioned
        self.tally.reused += stored.reused
        self.tally.reasons.update(stored.reasons)


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
            image_size(settings)
            plan = planned(folder, settings, run.restart, _say)
            job = Job(folder, plan, run, lock)
            with Display(job.tally) as display:
                return job.run(display)
    finally:
        lock.release()


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
