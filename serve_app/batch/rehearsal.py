"""`--dry-run`: what the job would do, and how long it would take by a sample of its images."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from serve_app.batch import claims, sources
from serve_app.batch.flow import Engines, answer, connected, taken
from serve_app.batch.folder import Folder
from serve_app.batch.inputs import Input
from serve_app.batch.intake import Reader
from serve_app.batch.settings import JobSettings, RunSettings
from serve_app.batch.worker import Worker
from serve_app.types import Size

COUNTED = 1_000_000
"""Inputs beyond these are not counted in a rehearsal."""
SAMPLE = 16


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What would happen. `rate` in images per second of one engine, with several at once; None if all failed."""

    inputs: int
    counted_all: bool
    other: dict[str, int]
    engines: int
    rate: float | None
    caption: str
    failed: int


def rehearse(settings: JobSettings, run: RunSettings) -> Rehearsal:
    """Counts, and captions a sample spread over what was counted. Raises as the job would."""
    found = sources.Found()
    listed = sources.inputs(settings, found)
    sample, count = _sampled(itertools.islice(listed, COUNTED))
    whole = next(listed, None) is None
    with connected(run.address):
        takes = taken(settings)
        engines = Engines(settings, run)
        options = {"num_cpus": engines.cpus, "num_gpus": engines.gpus}
        took_s, rows = answer(ray.remote(_try).options(**options).remote(settings, run, engines.threads, takes, sample))
    captioned = [row["caption"] for row in rows if row["caption"] is not None]
    rate = len(captioned) / took_s if captioned else None
    shown = captioned[0] if captioned else (rows[0]["error"] if rows else "")
    return Rehearsal(count, whole, dict(found.other), engines.most, rate, shown, len(rows) - len(captioned))


def _sampled(inputs: Any) -> tuple[list[Input], int]:
    """Some inputs, evenly spread, and how many there are; holds twice the sample at most."""
    kept: list[Input] = []
    step, count = 1, 0
    for item in inputs:
        if count % step == 0:
            kept.append(item)
            if len(kept) >= 2 * SAMPLE:
                kept, step = kept[::2], step * 2
        count += 1
    return kept[:: max(1, len(kept) // SAMPLE)], count


def _try(
    settings: JobSettings, run: RunSettings, threads: int | None, takes: tuple[Size, ...] | None, sample: list[Input]
) -> tuple[float, list[dict[str, Any]]]:
    """Captions the sample in this process: seconds and rows."""
    registry = ray.remote(claims.Claims).options(num_cpus=0).remote(0)
    reader = Reader(Folder(run.out), settings, takes, SAMPLE, {})
    images = pa.table(reader.columns(0, list(enumerate(sample))))
    worker = Worker(settings, threads, run.concurrency, registry)
    worker(images.slice(0, 1))  # the first image also pays for what is made once
    start = time.perf_counter()
    rows = [json.loads(row) for row in worker(images)["row"]]
    return time.perf_counter() - start, rows
