"""A Ray cluster of several nodes on one machine, each a process tree of its own that can be killed as a whole.

Every node has its own HAProxy on its own port; a further HAProxy stands before them as a load balancer would.
The head keeps its state in a real Redis, so that it can be lost and come back.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import ray
import ray.util

from bench import balancer

ROOT = Path(__file__).parent.parent
_TAG = "CAPTION_SERVE_NODE"
"""Environment variable that all processes of a node inherit; its value tells the nodes apart."""
START_TIMEOUT_S = 180.0
SLOTS = 32
"""Workers that a cluster may have in its life; the balancer knows their ports from the beginning."""


class ClusterError(Exception):
    """One sentence on what a cluster here lacks or did not do."""


@dataclass
class Node:
    """One node: its processes carry `tag` in their environment; `port` is that of its HTTP proxy."""

    name: str
    port: int
    tag: str = field(default_factory=lambda: uuid.uuid4().hex)

    def processes(self, title: str = "") -> list[psutil.Process]:
        """This node's processes whose command line contains `title`."""
        return [process for process in tagged(self.tag) if title in _command(process)]

    def kill(self) -> None:
        """Ends all processes of the node at once. Unlike a machine without power, it still closes its connections."""
        for _ in range(5):  # a process may have been starting another one
            found = tagged(self.tag)
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(found, timeout=10)
            if not found:
                return


def tagged(tag: str) -> list[psutil.Process]:
    """All living processes whose environment carries the tag."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(_TAG) == tag and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


_PORTS = iter(random.sample(range(20_000, 30_000), 10_000))
"""Below those that the kernel gives to whoever asks for any port, and above those that Ray gives to its workers: what
is free here now is still free when a node that starts later takes it."""


def free_port() -> int:
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise ClusterError("There is no free port between 20000 and 30000.")


def wait_for(true: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Raises `ClusterError` when `true()` does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise ClusterError(f"{what} did not come true within {timeout_s:.0f} s.")
        time.sleep(0.25)


class LocalCluster:
    """A head that runs no work, and workers that come and go; a context manager.

    `settings` are environment variables for every node, such as those of configs/serve.env. With `autoscaling`, a
    config of Ray's autoscaler, that one starts and ends the workers.
    """

    def __init__(
        self,
        directory: Path,
        settings: dict[str, str] | None = None,
        autoscaling: dict[str, Any] | None = None,
        head_cpus: float = 0,
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self.workers: list[Node] = []
        self.directory = directory
        self._settings = settings or {}
        self._autoscaling = autoscaling
        self._head_cpus = head_cpus
        self._gcs_port, self._dashboard_port, self._redis_port = free_port(), free_port(), free_port()
        self._ray = str(Path(sys.executable).parent / "ray")
        self._redis: subprocess.Popen[bytes] | None = None
        self._balancer: subprocess.Popen[bytes] | None = None
        self._slots = [free_port() for _ in range(SLOTS)]
        self.head = Node("head", free_port())

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would outlive this process
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self) -> None:
        """Starts Redis, the balancer and the head."""
        redis = shutil.which("redis-server")
        if redis is None:
            raise ClusterError("redis-server is missing (Debian: apt-get install redis-server).")
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [redis, "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"]
        self._redis = subprocess.Popen([*command, "--dir", str(self.directory)], stdout=subprocess.DEVNULL)
        self._balancer = balancer.start(self.directory, int(self.url.rsplit(":", 1)[1]), self._slots)
        self.start_head()

    def __exit__(self, *_: object) -> None:
        for process in (self._balancer, self._redis):
            if process is not None:
                process.kill()
                process.wait()
        for node in (*self.workers, self.head):
            node.kill()

    @property
    def redis_url(self) -> str:
        """A database of the head's Redis that Ray doesn't use."""
        return f"redis://127.0.0.1:{self._redis_port}/1"

    @property
    def gcs_address(self) -> str:
        return f"{ray.util.get_node_ip_address()}:{self._gcs_port}"

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self._dashboard_port}"

    def start_head(self) -> None:
        """Starts the head, anew after it was killed: its state comes from Redis."""
        # `ray start` takes the other nodes' processes on this machine for a head that still runs.
        (self.directory / "ray" / "ray_current_cluster").unlink(missing_ok=True)
        options = ["--head", f"--port={self._gcs_port}", f"--dashboard-port={self._dashboard_port}"]
        options += [
            f"--temp-dir={self.directory / 'ray'}",
            "--include-dashboard=true",
            "--ray-client-server-port",
            str(free_port()),
        ]
        settings = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{self._redis_port}"}
        if self._autoscaling is not None:
            config = self.directory / "autoscaling.json"
            provider = {**self._autoscaling["provider"], "gcs_address": self.gcs_address}
            config.write_text(json.dumps({**self._autoscaling, "provider": provider}), encoding="utf-8")
            options.append(f"--autoscaling-config={config}")
            settings |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        self._start(self.head, [*options, f"--num-cpus={self._head_cpus:g}"], settings)

        def answers() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=5).status_code == 200
            return False

        wait_for(answers, "The head's dashboard")

    def add_worker(self, cpus: float = 4, gpus: float = 1) -> Node:
        port = self._slots.pop(0)
        node = Node(f"worker-{port}", port)
        self.workers.append(node)
        options = [f"--address={self.gcs_address}", f"--num-cpus={cpus:g}", f"--num-gpus={gpus:g}"]
        self._start(node, options, {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(node.port)})
        return node

    def kill_worker(self, node: Node) -> None:
        """The balancer is not told, as nobody would tell a real one."""
        self.workers.remove(node)
        node.kill()

    def deploy(self, config: dict[str, Any]) -> None:
        """`serve deploy`: hands the config to the head and returns at once."""
        answer = httpx.put(f"{self.dashboard}/api/serve/applications/", json=config, timeout=120)
        if answer.status_code != 200:
            raise ClusterError(f"The config was refused: {answer.text[-500:]}")

    def status(self) -> dict[str, Any]:
        """What `serve status` knows; empty while the head is away."""
        with contextlib.suppress(httpx.HTTPError, json.JSONDecodeError):
            answer = httpx.get(f"{self.dashboard}/api/serve/applications/", timeout=10)
            if answer.status_code == 200:
                return dict(answer.json())
        return {}

    def deployment(self, name: str, application: str = "captions") -> dict[str, Any]:
        found = self.status().get("applications", {}).get(application, {}).get("deployments", {}).get(name, {})
        return dict(found)

    def running(self, name: str) -> int:
        """Replicas of a deployment that run."""
        return sum(replica.get("state") == "RUNNING" for replica in self.deployment(name).get("replicas", []))

    def wait_healthy(self, application: str = "captions", timeout_s: float = START_TIMEOUT_S) -> None:
        def healthy() -> bool:
            state = self.status().get("applications", {}).get(application, {})
            if state.get("status") == "DEPLOY_FAILED":
                raise ClusterError(f"The application failed: {state.get('message')}")
            if state.get("status") != "RUNNING":
                return False
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
            return False

        try:
            wait_for(healthy, f"The application {application!r}", timeout_s)
        except ClusterError as error:
            raise ClusterError(f"{error} {json.dumps(self.status())[:4000]}") from None

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray's state API describes them."""
        answer = httpx.get(f"{self.dashboard}/api/v0/nodes", timeout=10).json()
        return [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Processes of a deployment's replicas on all nodes."""
        title = f"ray::ServeReplica:captions:{deployment}"
        return [process for node in self.workers for process in node.processes(title)]

    def _start(self, node: Node, options: list[str], settings: dict[str, str]) -> None:
        scratch = self.directory / node.name
        scratch.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **_PLAIN, **self._settings, **_haproxy(scratch), **settings, _TAG: node.tag}
        environment["PYTHONPATH"] = str(ROOT)
        command = [self._ray, "start", "--block", "--disable-usage-stats", *options]
        command += ["--dashboard-agent-listen-port=0", "--object-store-memory=100000000"]
        log = scratch / "ray.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )

        def started() -> bool:
            if process.poll() is not None:
                raise ClusterError(f"{node.name} ended while it started: {log.read_text()[-500:]}")
            return "Ray runtime started" in log.read_text()

        # One after the other: raylets that start on one machine at the same time get into each other's way.
        wait_for(started, f"The start of {node.name}")


_PLAIN = {
    "RAY_AUTH_MODE": "disabled",  # one machine, loopback only
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "120",  # how long a node waits for a head that was lost
}


def _haproxy(scratch: Path) -> dict[str, str]:
    """Ray's HAProxy keeps fixed paths and ports, one for each machine; nodes that share a machine need their own."""
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
    }


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Holds a process still for the duration of the block; whoever ended it meanwhile is fine."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
