"""The service as `make run` starts it, with a second application whose variants are spread over replicas."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 280


@dataclass
class Service:
    """A running service: its address and what it has printed."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def client(self, timeout_s: float = 120) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=timeout_s)

    @property
    def dashboard(self) -> str:
        """Address of Ray's dashboard, which also takes jobs; another cluster on the machine may hold 8265."""
        address, *_ = re.findall(r"View the dashboard at \S*?(http://[\d.]+:\d+)", "".join(self.lines))
        return str(address)

    def replica_processes(self, deployment: str, application: str = "captions") -> list[psutil.Process]:
        title = f"ray::ServeReplica:{application}:{deployment}"
        processes = psutil.process_iter(["cmdline"])
        found = [process for process in processes if " ".join(process.info["cmdline"] or ()).startswith(title)]
        assert found, f"no process {title}"
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(directory: Path) -> Path:
    """configs/local.yaml and, beside it, the same service with four calls an image over two replicas."""
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text(encoding="utf-8"))
    (captions,) = config["applications"]
    spread = yaml.safe_load(yaml.safe_dump(captions))
    spread.update(name="spread", route_prefix="/spread", args={"model": "demo", "spread": 4})
    for deployment in spread["deployments"]:
        deployment["ray_actor_options"]["num_cpus"] = 0.1
    spread["deployments"][1]["num_replicas"] = 2
    config["applications"].append(spread)
    file = directory / "serve.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    port = free_port()
    command = [sys.executable, "-m", "demo.run", "--port", str(port)]
    command += ["--config", str(_config(tmp_path_factory.mktemp("config")))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RAY_SERVE_LOG_TO_STDERR": "0"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Service(f"http://127.0.0.1:{port}", process)
    up = threading.Event()

    def follow() -> None:
        assert process.stdout
        for line in process.stdout:
            running.lines.append(line)
            if "Ctrl-C stops it" in line:
                up.set()
        up.set()

    threading.Thread(target=follow, daemon=True).start()
    try:
        started = up.wait(START_TIMEOUT_S) and process.poll() is None
        assert started, "".join(running.lines[-40:])
        yield running
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
