"""The service as `make run` starts it, with a second application whose variants are spread over replicas."""

from __future__ import annotations

import hashlib
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

from lab import held_out

ROOT = Path(__file__).parents[2]
CAPTION_SERVE = str(Path(sys.executable).with_name("caption-serve"))
START_TIMEOUT_S = 280
FIRST_KEY = "cs-first-key-of-the-tests"


@dataclass
class Service:
    """A running service: its address and what it has printed."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    vlm_port: int = 0
    """Where the captioner `vlm` of the application `committee` expects a chat endpoint."""

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


def _config(directory: Path, port: int, vlm_port: int) -> Path:
    """configs/local.yaml and, beside it, the same service four times.

    /spread sends four calls an image over two replicas, /instant has no model and fetches from loopback, /guarded
    and its page ask for the key `FIRST_KEY`. /committee has four captioners: the embedded model, one without a model,
    the service at /spread by URL, and a chat endpoint that a test provides; it waits three seconds for late ones.
    """
    config = yaml.safe_load((ROOT / "configs" / "local.yaml").read_text(encoding="utf-8"))
    captions, page = config["applications"]
    for deployment in captions["deployments"][2:]:
        deployment["ray_actor_options"]["num_cpus"] = 0.01  # room for the jobs of tests beside so many applications
    keys = directory / "keys"
    keys.write_text(f"first:sha256:{hashlib.sha256(FIRST_KEY.encode()).hexdigest()}\n", encoding="utf-8")
    loopback = {"fetch_hosts": ["127.0.0.1"], "fetch_networks": ["127.0.0.0/8"]}
    variants = {
        "spread": {"model": "demo", "spread": 4, "job_store": str(directory / "jobs")},
        "instant": {"engine": "instant", **loopback, "fetch_timeout_s": 3},
        "guarded": {"engine": "instant", "api_keys_file": str(keys), "key_rows_at_once": 4 * 46},
    }
    for name, args in variants.items():
        other = yaml.safe_load(yaml.safe_dump(captions))
        other.update(name=name, route_prefix=f"/{name}", args=args)
        other["deployments"] = other["deployments"][:2]  # without models for matching and questions
        for deployment in other["deployments"]:
            deployment["ray_actor_options"]["num_cpus"] = 0.05
        config["applications"].append(other)
    config["applications"][2]["deployments"][1]["num_replicas"] = 2
    committee = yaml.safe_load(yaml.safe_dump(config["applications"][2]))
    urls = {"serve": f"http://127.0.0.1:{port}/spread/v1", "vlm": f"http://127.0.0.1:{vlm_port}/v1"}
    captioners = [
        {"name": "blip", "model": "demo"},
        {"name": "instant", "engine": "instant"},
        *({"name": name, "engine": "openai", "model": "demo", "captioner_url": url} for name, url in urls.items()),
    ]
    committee.update(name="committee", route_prefix="/committee", args={"captioners": captioners})
    committee["args"]["captioner_patience_s"] = 3
    options = committee["deployments"].pop()
    for captioner in captioners:
        small = {"name": f"Captioner-{captioner['name']}", "num_replicas": 1}
        committee["deployments"].append({**options, **small, "ray_actor_options": {"num_cpus": 0.01}})
    config["applications"].append(committee)
    guarded = yaml.safe_load(yaml.safe_dump(page))
    args = {"application": "guarded", "root_path": "/guarded-ui"}
    guarded.update(name="guarded-page", route_prefix="/guarded-ui", args=args)
    guarded["deployments"][0]["ray_actor_options"]["num_cpus"] = 0.05
    config["applications"].append(guarded)
    file = directory / "serve.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    port, vlm_port = free_port(), free_port()
    command = [CAPTION_SERVE, "serve", "--sample", str(held_out.SAMPLE), "--port", str(port)]
    command += ["--config", str(_config(tmp_path_factory.mktemp("config"), port, vlm_port))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "RAY_SERVE_LOG_TO_STDERR": "0", "CAPTION_SERVE_VERBOSE": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Service(f"http://127.0.0.1:{port}", process, vlm_port=vlm_port)
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


@pytest.fixture(scope="session")
def page_url(service: Service) -> str:
    """The web page's address."""
    return f"{service.url}/ui"
