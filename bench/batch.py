"""The batch job: its speed against the bare engine, its memory, and what kills do to it.

    python -m bench.batch --part rate                # the embedded model, 400 scenes
    python -m bench.batch --part memory              # the driver at 1,000 and at 100,000 images, instant engine
    python -m bench.batch --part kills               # 2,000 scenes, 12 kills of job, engine and node

Each prints a table; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import ray
from PIL import Image

from bench.cluster import ROOT, LocalCluster, wait_for
from lab.composers import draw_grid
from lab.scenes import HELD_OUT_SEED
from serve_app.batch import index, sources, state
from serve_app.batch.command import settings_of
from serve_app.batch.flow import Engines, Flow, connected, taken
from serve_app.batch.folder import Folder
from serve_app.batch.intake import Reader
from serve_app.batch.settings import JobSettings, RunSettings
from serve_app.batch.worker import EngineJobBackend
from serve_app.types import Pixels

FIRST_SCENE = 10_000
"""Scenes that neither training nor the held-out set has."""
WINDOW = 10_000
"""Inputs of one execution when memory is measured: small enough for several of them."""


def draw(directory: Path, count: int) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, _ = draw_grid((HELD_OUT_SEED, FIRST_SCENE + number))
        image.save(directory / f"{number:05d}.jpg", quality=90)
    return directory


def settings(source: Path, out: Path, **given: Any) -> tuple[JobSettings, RunSettings]:
    options = {"options": {"detail": given.pop("detail", "low")}, "args": {"engine": given.pop("engine", "decode")}}
    return settings_of(str(source), str(out), {**options, **given})


class Bare:
    """The job's engine with images that wait in memory, as an actor of the same size."""

    def __init__(self, job: JobSettings, threads: int | None, images: list[Pixels]) -> None:
        self._backend = EngineJobBackend(job, threads)
        self._images = images

    def run(self) -> float:
        """Seconds for all images."""

        async def all_of_them() -> None:
            room = asyncio.Semaphore(self._backend.at_once)

            async def one(image: Pixels) -> None:
                async with room:
                    await self._backend.caption(image)

            await asyncio.gather(*map(one, self._images))

        start = time.perf_counter()
        asyncio.run(all_of_them())
        return time.perf_counter() - start


def rate(scratch: Path, count: int) -> dict[str, Any]:
    """Both in one process tree, bare, job, bare; of the job the middle four fifths."""
    job, run = settings(draw(scratch / "scenes", count), scratch / "out", shard_size=100)
    folder = Folder(run.out)
    total, shards = index.store(folder, sources.inputs(job, sources.Found()), job.shard_size)
    with connected("local"):
        engines = Engines(job, run)
        reader = Reader(folder, job, taken(job), run.batch_size, {})
        read = [reader.columns(shard, list(enumerate(index.load(folder, shard)))) for shard in range(shards)]
        names = ("digest", "height", "width", "image")
        images = [Pixels(*image) for columns in read for image in zip(*(columns[name] for name in names), strict=True)]

        def bare() -> float:
            actor: Any = ray.remote(Bare).options(num_cpus=engines.cpus).remote(job, engines.threads, images)
            took_s: float = ray.get(actor.run.remote())
            ray.kill(actor)
            return count / took_s

        before = bare()
        start = time.perf_counter()
        flow = Flow(folder, job, run, range(shards), {})
        seen = [(time.perf_counter(), len(rows)) for rows in flow.rows()]
        flow.close()
        middle = seen[len(seen) // 10 : -len(seen) // 10]  # the first batches begin together, the last run dry
        steady = sum(number for _, number in middle[1:]) / (middle[-1][0] - middle[0][0])
        after = bare()
    assert sum(number for _, number in seen) == total
    mean = (before + after) / 2
    print(f"bare engine {before:.1f} and {after:.1f} images/s, job {steady:.1f} images/s: {steady / mean:.0%}")
    print(f"first rows {seen[0][0] - start:.1f} s after the start")
    return {
        "images": count,
        "engines": engines.most,
        "bare_per_s": [round(before, 2), round(after, 2)],
        "job_per_s": round(steady, 2),
        "share": round(steady / mean, 3),
        "first_rows_s": round(seen[0][0] - start, 1),
    }


def memory(scratch: Path, counts: tuple[int, ...]) -> dict[str, Any]:
    """The largest resident size of the job's own process, which lists, commits and shows."""
    generator = np.random.default_rng(0)
    result: dict[str, Any] = {}
    for count in counts:
        words = ("--engine", "instant", "--detail", "low", "--strategy", "classic", "--window", str(WINDOW))
        source = scratch / f"images-{count}"
        for number in range(count):
            folder = source / f"{number // 1000:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:06d}.png")
        start = time.monotonic()
        process = launch(source, scratch / f"out-{count}", *words)
        largest = 0
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                largest = max(largest, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.1)
        assert process.wait() == 0
        took_s = time.monotonic() - start
        rows = sum(pq.read_metadata(file).num_rows for file in (scratch / f"out-{count}").glob("part-*.parquet"))
        assert rows == count, rows
        print(f"{count:,} images: {largest / 1e6:.0f} MB, {took_s:.0f} s, {count / took_s:.0f} images/s")
        result[str(count)] = {"driver_mb": round(largest / 1e6), "seconds": round(took_s, 1)}
    return result


def launch(source: Path, out: Path, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """The job's command in a process group of its own, so that all of it can be killed."""
    command = [sys.executable, "-m", "serve_app.batch", str(source), "--out", str(out), "--no-report", *words]
    with Path(str(out) + ".log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def rows_of(out: Path) -> list[dict[str, Any]]:
    return [row for file in sorted(out.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]


def progress_of(out: Path) -> int:
    """Rows that are safe: of finished shards and in the journal."""
    folder = Folder(str(out))
    done = set(state.done_shards(folder))
    finished = sum(mark.captioned + len(mark.failed) for _, mark in state.done_marks(folder))
    lines = [line for file in (out / "_job" / "open").glob("*.jsonl") for line in file.read_bytes().splitlines()]
    places = {(shard, place) for shard, place, _ in map(json.loads, lines) if shard not in done}
    return finished + len(places)


class Killer:
    """Ends a part of a running job at a random moment."""

    def __init__(self, cluster: LocalCluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self.struck: Counter[str] = Counter()

    def strike(self, kind: str, process: subprocess.Popen[bytes]) -> None:
        if kind == "job":
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        elif kind == "engine":
            found = [one for node in self._cluster.workers for one in node.processes("MapBatches(Worker)")]
            if not found:
                return
            self._random.choice(found).kill()
        else:
            self._cluster.kill_worker(self._random.choice(self._cluster.workers))
            self._cluster.add_worker(cpus=2, gpus=0)
        self.struck[kind] += 1

    def pause(self, longest_s: float) -> None:
        time.sleep(self._random.uniform(longest_s / 4, longest_s))


def undisturbed(source: Path, out: Path, cluster: LocalCluster, *words: str) -> list[dict[str, Any]]:
    process = launch(source, out, *words, environment=environment_of(cluster))
    assert process.wait() == 0, Path(str(out) + ".log").read_text()[-3000:]
    return rows_of(out)


def environment_of(cluster: LocalCluster) -> dict[str, str]:
    return {"RAY_ADDRESS": cluster.gcs_address, "RAY_AUTH_MODE": "disabled"}


def disturbed(
    source: Path, out: Path, cluster: LocalCluster, kinds: list[str], seed: int, *words: str, pause_s: float = 16.0
) -> tuple[Counter[str], list[float]]:
    """Runs the job, strikes for each of `kinds` within `pause_s` seconds, starts it again whenever it ended.

    Returns what struck, and the seconds that each new start took to its first new rows.
    """
    killer, resumed = Killer(cluster, seed), list[float]()
    remaining = list(kinds)

    def start() -> subprocess.Popen[bytes]:
        had, began = progress_of(out), time.monotonic()
        process = launch(source, out, *words, environment=environment_of(cluster))

        def grown() -> bool:
            return process.poll() is not None or progress_of(out) > had

        wait_for(grown, "A new row")
        resumed.append(time.monotonic() - began)
        return process

    process = start()
    while True:
        if remaining and process.poll() is None:
            killer.pause(pause_s)
            if process.poll() is None:
                killer.strike(remaining.pop(0), process)
        if process.poll() is None and remaining:
            continue
        code = process.wait()
        if code == 0:
            return killer.struck, resumed[1:]
        process = start()


def kills(scratch: Path, count: int, number: int, seed: int) -> dict[str, Any]:
    """The rows of a job that was killed so often against those of one that was not."""
    kinds = [("job", "engine", "node")[place % 3] for place in range(number)]
    random.Random(seed).shuffle(kinds)
    scenes = draw(scratch / "scenes", count)
    words = ("--detail", "low", "--shard-size", "150", "--engines", "1", "--cpus-per-engine", "1")
    with LocalCluster(scratch / "cluster") as cluster:
        for _ in range(2):
            cluster.add_worker(cpus=2, gpus=0)
        plain = undisturbed(scenes, scratch / "plain", cluster, *words)
        struck, resumed = disturbed(scenes, scratch / "struck", cluster, kinds, seed, *words)
    rows = rows_of(scratch / "struck")
    paths = Counter(row["path"] for row in rows)
    result = {
        "inputs": count,
        "kills": dict(struck),
        "rows": len(rows),
        "twice": sum(times > 1 for times in paths.values()),
        "equal": rows == plain,
        "resume_s": [round(took, 1) for took in resumed],
    }
    print(f"{count:,} inputs, {struck.total()} kills {dict(struck)}: {len(rows):,} rows, {result['twice']} twice")
    print(f"equal to an undisturbed run: {result['equal']}; first new rows after {result['resume_s']} s")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("rate", "memory", "kills"), default="rate")
    parser.add_argument("--images", type=int, help="how many (rate: 400, kills: 2000)")
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "rate": lambda scratch: rate(scratch, args.images or 400),
        "memory": lambda scratch: memory(scratch, (1000, args.images or 100_000)),
        "kills": lambda scratch: kills(scratch, args.images or 2000, args.kills, args.seed),
    }
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps({args.part: parts[args.part](Path(scratch))}))


if __name__ == "__main__":
    main()
