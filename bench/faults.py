"""Steady load on a cluster of several nodes while its parts are killed at random.

    python -m bench.faults                     # 24 faults, about 8 minutes
    python -m bench.faults --faults 7 --seed 3

Nothing but a load balancer stands between client and cluster, and the client sends every request once. The engine is
the instant one with a delay, so that faults meet requests on their way; its text names the image, which shows an answer
that went to the wrong request. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import random
import shlex
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from PIL import Image

from bench.cluster import ROOT, ClusterError, LocalCluster, wait_for
from serve_app.instant import IMAGE_SIZE
from serve_app.limits import Limits
from serve_app.service import images
from serve_app.types import ModelInfo

WORKERS = 3
DELAY_S = 0.5
TIMEOUT_S = 120.0
RECOVERY_S = 120.0
DOWN_S = 3.0
"""How long a killed node or head stays away."""

MODEL = ModelInfo("instant", IMAGE_SIZE, IMAGE_SIZE, 512, "none", "none")


def settings() -> dict[str, str]:
    """Environment of configs/serve.env."""
    text = (ROOT / "configs" / "serve.env").read_text(encoding="utf-8")
    name_value = [word.partition("=") for word in shlex.split(text, comments=True)]
    return {name: value for name, _, value in name_value}


def config(port: int, delay_s: float = DELAY_S) -> dict[str, Any]:
    """configs/serve.yaml without its page, with the instant engine, a fixed number of replicas, quick health checks."""
    whole: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text(encoding="utf-8"))
    whole["http_options"]["port"] = port
    (captions,) = whole["applications"] = [one for one in whole["applications"] if one["name"] == "captions"]
    captions["args"] = {"engine": "instant", "instant_delay_s": delay_s, "default_strategy": "classic"}
    captions["deployments"] = [one for one in captions["deployments"] if one["name"] != "Matcher"]
    for deployment in captions["deployments"]:
        del deployment["autoscaling_config"]
        deployment.update(num_replicas=WORKERS, health_check_period_s=2, health_check_timeout_s=3)
        deployment["ray_actor_options"]["num_cpus"] = 1
        if deployment["name"] == "Ingress":
            deployment["max_replicas_per_node"] = WORKERS - 1  # or a killed node may have had all of them
    return whole


@dataclass
class Tally:
    """What became of the requests."""

    sent: int = 0
    ok: int = 0
    shed: int = 0
    degraded: int = 0
    mixed_up: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    by_fault: Counter[str] = field(default_factory=Counter)
    recovery_s: dict[str, list[float]] = field(default_factory=dict)
    now: str = "none"
    """The fault that was the last to strike."""

    def summary(self) -> dict[str, Any]:
        latencies = sorted(self.latencies_ms)
        return {
            "sent": self.sent,
            "ok": self.ok,
            "shed": self.shed,
            "failed": self.sent - self.ok - self.shed,
            "duplicates": sum(count - 1 for count in self.answered.values()),
            "by_fault": dict(self.by_fault),
            "p50_ms": round(latencies[len(latencies) // 2]),
            "p99_ms": round(latencies[int(len(latencies) * 0.99)]),
            "max_ms": round(latencies[-1]),
            "degraded": self.degraded,
            "mixed_up": self.mixed_up,
            "recovery_s": {kind: round(statistics.median(took), 1) for kind, took in self.recovery_s.items()},
        }


SIDES = (24, 24, 24, 300)
"""Pixels: files of 2 kB, and every fourth of 270 kB, which comes to a proxy in many pieces."""


def noise(seed: int) -> tuple[bytes, str]:
    """An image that no other request sends, and the digest of its pixels at the model's size."""
    side = SIDES[seed % len(SIDES)]
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue(), images.read(file.getvalue(), Limits(), MODEL).digest


async def ask(client: httpx.AsyncClient, tally: Tally, number: int, start: float) -> None:
    """One request; latencies count from `start`, when it was due."""
    image, digest = await asyncio.to_thread(noise, number)
    request_id = uuid.uuid4().hex
    tally.sent += 1
    try:
        answer = await client.post("/v1/captions?detail=low", content=image, headers={"x-request-id": request_id})
        judge(tally, answer, request_id, digest, start)
    except Exception as error:  # whatever it was: the request has no good answer
        tally.failures.append({"fault": tally.now, "error": repr(error)})


def judge(tally: Tally, answer: httpx.Response, request_id: str, digest: str, start: float) -> None:
    took_ms = (time.monotonic() - start) * 1000
    if answer.status_code == 200:
        body = answer.json()
        tally.answered[body["id"]] += 1
        tally.latencies_ms.append(took_ms)
        tally.degraded += bool(body["degraded"])
        right = body["id"] == request_id and digest in body["caption"]
        tally.ok += right
        tally.mixed_up += not right
    elif answer.status_code in (429, 503) and "overloaded" in answer.text:
        tally.shed += 1
    else:
        found = {"fault": tally.now, "status": answer.status_code, "body": answer.text[:300], "ms": round(took_ms)}
        tally.failures.append(found)


async def load(url: str, tally: Tally, rate: float, enough: Callable[[], bool]) -> None:
    """Open loop: a request is sent when it is due, whatever became of those before it."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        start, number = time.monotonic(), 0
        tasks: set[asyncio.Task[None]] = set()
        while not enough():
            due = start + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(ask(client, tally, number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        await asyncio.gather(*tasks)


class Faults:
    """What can happen to a cluster; each method strikes and returns when its cause is gone."""

    def __init__(self, cluster: LocalCluster, chance: random.Random) -> None:
        self._cluster = cluster
        self._chance = chance
        self.kinds: dict[str, Callable[[], None]] = {
            "captioner killed": lambda: self._one("Captioner").kill(),
            "ingress killed": lambda: self._one("Ingress").kill(),
            "captioner hangs": lambda: self._one("Captioner").suspend(),
            "node killed": self._node,
            "controller killed": lambda: self._on_head("ray::ServeController").kill(),
            "head killed": self._head,
            "proxy killed": lambda: self._proxy().kill(),
        }

    def recovered(self) -> bool:
        cluster = self._cluster
        return (
            len(cluster.workers) == WORKERS
            and cluster.running("Captioner") == cluster.running("Ingress") == WORKERS
            and len(self._living("Captioner")) == len(self._living("Ingress")) == WORKERS
            and all(_listens(node.port) for node in cluster.workers)
        )

    def _living(self, deployment: str) -> list[psutil.Process]:
        return [p for p in self._cluster.replicas(deployment) if p.status() != psutil.STATUS_STOPPED]

    def _one(self, deployment: str) -> psutil.Process:
        return self._chance.choice(self._living(deployment))

    def _on_head(self, title: str) -> psutil.Process:
        return self._cluster.head.processes(title)[0]

    def _proxy(self) -> psutil.Process:
        return self._chance.choice(self._chance.choice(self._cluster.workers).processes("bin/haproxy"))

    def _node(self) -> None:
        self._cluster.kill_worker(self._chance.choice(self._cluster.workers))
        time.sleep(DOWN_S)
        self._cluster.add_worker()

    def _head(self) -> None:
        self._cluster.head.kill()
        time.sleep(DOWN_S)
        self._cluster.start_head()


def _listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/-/healthz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def strike(faults: Faults, kinds: list[str], tally: Tally, chance: random.Random) -> None:
    """One fault after the other, each after a pause of its own once the one before is healed."""
    for number, kind in enumerate(kinds, start=1):
        time.sleep(chance.uniform(0.5, 4.0))
        tally.now = kind
        tally.by_fault[kind] += 1
        began, failed = time.monotonic(), len(tally.failures)
        faults.kinds[kind]()
        wait_for(faults.recovered, f"Recovery from {kind!r}", RECOVERY_S)
        took = time.monotonic() - began
        tally.recovery_s.setdefault(kind, []).append(took)
        print(f"{number:3} {kind:18} whole again after {took:5.1f} s", *tally.failures[failed:], flush=True)


async def run(cluster: LocalCluster, kinds: list[str], rate: float, requests: int, seed: int) -> Tally:
    chance = random.Random(seed)
    tally = Tally()
    storm = asyncio.create_task(asyncio.to_thread(strike, Faults(cluster, chance), kinds, tally, chance))
    await load(cluster.url, tally, rate, lambda: storm.done() and tally.sent >= requests)
    await storm
    return tally


def choose(count: int, seed: int, of: list[str]) -> list[str]:
    """`count` faults in random order, every kind about as often as the others."""
    kinds = [of[number % len(of)] for number in range(count)]
    random.Random(seed).shuffle(kinds)
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=24, help="how many (default 24)")
    parser.add_argument("--only", action="append", help="a kind of fault; may be repeated (default: all kinds)")
    parser.add_argument("--rate", type=float, default=10.0, help="requests per second (default 10)")
    parser.add_argument("--requests", type=int, default=2000, help="at least so many (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults' order and victims")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with LocalCluster(Path(scratch), settings()) as cluster:
                for _ in range(WORKERS):
                    cluster.add_worker()
                cluster.deploy(config(cluster.head.port))
                cluster.wait_healthy()
                kinds = choose(args.faults, args.seed, args.only or list(Faults(cluster, random.Random()).kinds))
                tally = asyncio.run(run(cluster, kinds, args.rate, args.requests, args.seed))
        except ClusterError as error:
            print(error, file=sys.stderr)
            return 1
    for failure in tally.failures[:20]:
        print(failure)
    print(json.dumps(tally.summary()))
    return 0 if tally.summary()["failed"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
