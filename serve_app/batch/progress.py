"""What a person sees while a job runs: a bar on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

LINE_EVERY_S = 60.0


@dataclass
class Tally:
    """Rows of the job so far, and of this run."""

    total: int
    captioned: int = 0
    reused: int = 0
    """Captioned images that were duplicates of others."""
    reasons: Counter[str] = field(default_factory=Counter)
    here: int = 0
    """Rows that this run added."""

    @property
    def failed(self) -> int:
        return self.reasons.total()

    @property
    def rows(self) -> int:
        return self.captioned + self.failed


class Display:
    """Shows a tally on stderr."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._start = self._told = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            columns = (TextColumn("{task.completed:,}/{task.total:,}"), BarColumn(), TextColumn("{task.fields[told]}"))
            self._bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
            self._task = self._bar.add_task("", total=tally.total, completed=tally.rows, told="starting")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self.show(0)
            self._bar.stop()

    def say(self, sentence: str) -> None:
        if self._bar:
            self._bar.console.print(sentence)
        else:
            print(sentence, file=sys.stderr, flush=True)

    def show(self, in_progress: int) -> None:
        """Brings the display up to date; cheap enough to call often."""
        if self._bar:
            self._bar.update(self._task, completed=self._tally.rows, told=self.sentence(in_progress))
        elif time.monotonic() - self._told >= LINE_EVERY_S:
            self._told = time.monotonic()
            self.say(f"{self._tally.rows:,}/{self._tally.total:,}, {self.sentence(in_progress)}")

    def sentence(self, in_progress: int) -> str:
        tally, took_s = self._tally, max(1e-9, time.monotonic() - self._start)
        rate = tally.here / took_s
        left = f"{duration((tally.total - tally.rows) / rate)} left" if rate else "time left unknown"
        return f"{rate:.1f} images/s, {left}, {tally.failed:,} errors, {in_progress} in progress"


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 20 s` or `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"
