"""Load that rises and falls on a cluster with Ray's own autoscaler: replicas follow the load, and nodes the replicas.

    python -m bench.autoscaling                                  # about two minutes
    python -m bench.autoscaling --picture docs/autoscaling.svg   # draws the time line (needs matplotlib)

Every caption replica asks for a whole GPU and every node has one (a logical one: the nodes are processes of this
machine), so that a second replica brings a second node. The engine is the instant one with a delay. Serve's autoscaler
is given short delays; a real cluster takes those of configs/serve.yaml. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench import faults
from bench.cluster import ClusterError, LocalCluster, wait_for

DELAY_S = 1.0
LOW, HIGH = 1.0, 10.0
"""Requests per second; at HIGH ten are in progress at a time, which is what three replicas of 4 are for."""
PHASES = ((LOW, 15.0), (HIGH, 45.0), (LOW, 0.0))
"""Rate and seconds; the last one goes on until everything is small again."""
MOST_REPLICAS = 3
SHRINK_S = 150.0

AUTOSCALER: dict[str, Any] = {
    "cluster_name": "captions",
    "max_workers": 4,
    "upscaling_speed": 10,
    "idle_timeout_minutes": 0.15,
    "provider": {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "foreground_node_launch": True,
    },
    "auth": {"ssh_user": "ray"},
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 1, "max_workers": 1},
        "gpu": {"resources": {"CPU": 2, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST_REPLICAS},
    },
    **{name: [] for name in ("initialization_commands", "setup_commands", "head_setup_commands")},
    **{name: [] for name in ("worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")},
    "file_mounts": {},
    "cluster_synced_files": [],
    "rsync_exclude": [],
    "rsync_filter": [],
}


def config(cluster: LocalCluster, min_replicas: int = 1) -> dict[str, Any]:
    whole = faults.config(cluster.head.port, DELAY_S)
    whole["proxy_location"] = "HeadOnly"  # nodes of the autoscaler share this machine and would share a port
    (captions,) = whole["applications"]
    ingress, captioner = captions["deployments"]
    ingress["num_replicas"] = 2
    ingress["user_config"]["admission_depth"] = 100  # every request shall be answered, however long the growth takes
    del captioner["num_replicas"]
    captioner["max_ongoing_requests"] = 5
    captioner["graceful_shutdown_timeout_s"] = 20
    captioner["ray_actor_options"]["num_cpus"] = 2  # all of a GPU node's
    captioner["autoscaling_config"] = {
        "min_replicas": min_replicas,
        "max_replicas": MOST_REPLICAS,
        "target_ongoing_requests": 4,
        "metrics_interval_s": 1,
        "look_back_period_s": 3,
        "upscale_delay_s": 2,
        "downscale_delay_s": 6,
    }
    return whole


@dataclass
class Timeline:
    """What was seen, twice a second: seconds since the start, requests sent per second, replicas, GPU nodes."""

    seconds: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)

    def reached(self, count: int) -> float | None:
        """Seconds when both replicas and nodes were `count` for the first time."""
        rows = zip(self.seconds, self.replicas, self.nodes, strict=True)
        return next((second for second, replicas, nodes in rows if replicas == nodes == count), None)


def gpu_nodes(cluster: LocalCluster) -> int:
    return sum(bool(node["resources_total"].get("GPU")) for node in cluster.nodes())


def connect(cluster: LocalCluster) -> None:
    """Requests go to the head's proxy here."""
    cluster.url = f"http://127.0.0.1:{cluster.head.port}"


async def run(cluster: LocalCluster) -> tuple[faults.Tally, Timeline]:
    tally, timeline = faults.Tally(), Timeline()
    start = time.monotonic()

    async def watch() -> None:
        while True:
            replicas = await asyncio.to_thread(cluster.running, "Captioner")
            nodes = await asyncio.to_thread(gpu_nodes, cluster)
            timeline.seconds.append(round(time.monotonic() - start, 1))
            timeline.rate.append(rate)
            timeline.replicas.append(replicas)
            timeline.nodes.append(nodes)
            await asyncio.sleep(0.5)

    rate = PHASES[0][0]
    watcher = asyncio.create_task(watch())
    for rate, seconds in PHASES:  # the watcher reads the rate
        began = time.monotonic()

        def over(began: float = began, seconds: float = seconds) -> bool:
            if seconds:
                return time.monotonic() - began > seconds
            small = timeline.replicas[-1] == timeline.nodes[-1] == 1
            return small or time.monotonic() - began > SHRINK_S

        await faults.load(cluster.url, tally, rate, over)
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher
    return tally, timeline


def draw(timeline: Timeline, picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, sharex=True, figsize=(8, 4.5), layout="constrained")
    lines = (
        (timeline.rate, "requests/s", "#444"),
        (timeline.replicas, "caption replicas", "#2563eb"),
        (timeline.nodes, "GPU nodes", "#059669"),
    )
    for axis, (values, label, colour) in zip(axes, lines, strict=True):
        axis.step(timeline.seconds, values, where="post", color=colour)
        axis.fill_between(timeline.seconds, values, step="post", color=colour, alpha=0.15)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="where to draw the time line")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with LocalCluster(Path(scratch), faults.settings(), AUTOSCALER) as cluster:
                connect(cluster)
                cluster.deploy(config(cluster))
                cluster.wait_healthy()
                wait_for(lambda: gpu_nodes(cluster) == 1, "One GPU node")
                tally, timeline = asyncio.run(run(cluster))
        except (ClusterError, httpx.HTTPError) as error:
            print(error, file=sys.stderr)
            return 1
    for failure in tally.failures[:10]:
        print(failure)
    for second, rate, replicas, nodes in zip(
        timeline.seconds[::10], timeline.rate[::10], timeline.replicas[::10], timeline.nodes[::10], strict=True
    ):
        print(f"{second:6.1f} s  {rate:4.0f} requests/s  {replicas} replicas  {nodes} GPU nodes")
    if args.picture:
        draw(timeline, args.picture)
    summary = {
        "sent": tally.sent,
        "ok": tally.ok,
        "shed": tally.shed,
        "failed": tally.sent - tally.ok - tally.shed,
        "most_replicas": max(timeline.replicas),
        "most_nodes": max(timeline.nodes),
        "grown_after_s": timeline.reached(MOST_REPLICAS) and timeline.reached(MOST_REPLICAS) - PHASES[0][1],
        "last_replicas": timeline.replicas[-1],
        "last_nodes": timeline.nodes[-1],
        "seconds": timeline.seconds[-1],
    }
    print(json.dumps(summary))
    as_wanted = summary["failed"] == 0 and summary["most_nodes"] == MOST_REPLICAS and summary["last_nodes"] == 1
    return 0 if as_wanted else 1


if __name__ == "__main__":
    sys.exit(main())
