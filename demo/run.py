"""Starts the service on this machine, captions a sample scene, and keeps running: `make run`."""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
import ray
import yaml
from ray import serve
from ray.serve.schema import ApplicationStatus

from demo import held_out
from serve_app.errors import ModelError

ROOT = Path(__file__).parent.parent
APPLICATION = "captions"
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 90.0
FREE_MEMORY_BYTES = 3_000_000_000
"""What Ray and the service take with the embedded model, and some room."""


class CannotStart(Exception):
    """One sentence on why the service cannot start."""


def check_machine(host: str, port: int) -> None:
    """Raises `CannotStart` for a port in use or too little memory."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError:
            raise CannotStart(f"There is no port {port}; ports go from 1 to 65535.") from None
        except PermissionError:
            raise CannotStart(f"Port {port} is for the root user; give one above 1023: make run PORT=8001.") from None
        except OSError:
            raise CannotStart(
                f"Port {port} is in use; stop what listens there or give another: make run PORT=8001."
            ) from None
    free = psutil.virtual_memory().available
    if free < FREE_MEMORY_BYTES:
        raise CannotStart(
            f"The service needs about {FREE_MEMORY_BYTES / 1e9:.1f} GB of free memory; {free / 1e9:.1f} GB are free."
        )


def check_models(model: str | None, matcher: str | None, answerer: str | None) -> None:
    """Downloads hub models before anything starts. Raises `ModelError`s."""
    if not (model or matcher or answerer):
        return
    from serve_app.engine.checkpoint import ANSWERING, CAPTIONING, MATCHING, resolve  # brings torch

    for name, task in ((model, CAPTIONING), (matcher, MATCHING), (answerer, ANSWERING)):
        if name:
            resolve(name, task=task)


def write_config(
    source: Path,
    target: Path,
    model: str | None,
    port: int | None,
    matcher: str | None = None,
    answerer: str | None = None,
) -> tuple[str, int]:
    """Copies a config with other models or another port; returns the host and port that it serves at.

    Beside another captioner the embedded matcher and answerer, which know drawn scenes only, are left out.
    """
    config = yaml.safe_load(source.read_text(encoding="utf-8"))
    http = config["http_options"]
    if port is not None:
        http["port"] = port
    captions = config["applications"][0]
    if model is not None:
        captions["args"]["model"] = model
    for task, deployment, given in (("matcher", "Matcher", matcher), ("answerer", "Answerer", answerer)):
        if given is not None:
            captions["args"][task] = given
        elif model not in (None, "demo"):
            captions["args"].pop(task, None)
            captions["deployments"] = [one for one in captions["deployments"] if one["name"] != deployment]
    target.write_text(yaml.safe_dump(config), encoding="utf-8")
    return http["host"], http["port"]


def failure() -> str | None:
    """Why the application cannot be deployed, or None as long as it may still come up."""
    application = serve.status().applications.get(APPLICATION)
    if application is None or application.status != ApplicationStatus.DEPLOY_FAILED:
        return None
    messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
    told = re.findall(r"serve_app\.errors\.\w+: (.+)", "\n".join(messages))
    return str(told[-1]) if told else "\n".join(filter(None, messages))


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when `/readyz` says yes. Raises `CannotStart` when that cannot come or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotStart("The service ended while it started; its last lines are above.")
        if reason := failure():
            raise CannotStart(f"The service cannot be deployed: {reason}")
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise CannotStart(f"The service was not ready within {START_TIMEOUT_S:.0f} s.")


def show(url: str) -> None:
    """Captions the sample scene and says how to go on."""
    sample = held_out.SAMPLE.relative_to(ROOT)
    with held_out.SAMPLE.open("rb") as image:
        answer = httpx.post(f"{url}/v1/captions", files={"image": image}, timeout=600)
    answer.raise_for_status()
    print(f"\n{sample}: {answer.json()['caption']}\n")
    print(f"Serving at {url} (web page: {url}/ui, API description: {url}/docs). Try:")
    print(f"  curl -F image=@{sample} {url}/v1/captions")
    print("Ctrl-C stops it.", flush=True)


def run(config: Path, url: str) -> int:
    """Runs the service in the foreground until it ends or Ctrl-C; returns an exit code."""
    # A shell that starts this in the background has it ignore SIGINT, and the child would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    # The cluster is this process's own, so that its state can be asked for while it starts.
    context = ray.init("local", log_to_driver=False)
    command = [str(Path(sys.executable).parent / "serve"), "run", str(config)]
    environment = {**os.environ, "RAY_ADDRESS": context.address_info["gcs_address"]}
    # A session of its own: Ctrl-C reaches this process alone, which then stops Serve in order.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_ready(url, process)
        show(url)
        return process.wait()
    except (CannotStart, httpx.HTTPError) as error:
        reason = str(error)
    except KeyboardInterrupt:
        print("Stopping …", flush=True)
        return 0
    finally:
        stop(process)
    print(reason, file=sys.stderr)  # last, where it is seen
    return 1


def stop(process: subprocess.Popen[bytes]) -> None:
    """Lets Serve shut down in order, then ends the cluster; a second Ctrl-C does not cut that short."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    ray.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "local.yaml")
    parser.add_argument("--model", help="demo, a local directory, or a hub id")
    parser.add_argument("--matcher", help="the same; none beside another captioner unless given")
    parser.add_argument("--answerer", help="the same")
    parser.add_argument("--port", type=int)
    args = parser.parse_args()
    # Jobs that are sent to the service find this environment's python without its activation.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve_app.deployments.proxy:middlewares")
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "serve.yaml"
        host, port = write_config(args.config, config, args.model or None, args.port, args.matcher, args.answerer)
        try:
            check_machine(host, port)
            check_models(args.model, args.matcher, args.answerer)
        except (CannotStart, ModelError) as error:
            print(error, file=sys.stderr)
            return 1
        return run(config, f"http://{host}:{port}")


if __name__ == "__main__":
    sys.exit(main())
