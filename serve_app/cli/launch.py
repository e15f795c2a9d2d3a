"""The service on this machine, in the foreground, with its own Ray cluster."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import ray
import yaml
from ray import serve
from ray.serve.schema import ApplicationStatus

from serve_app.client.wire import KEY_VARIABLE
from serve_app.errors import ModelError
from serve_app.steps import SEVERAL

CONFIG = Path(__file__).with_name("local.yaml")
SAMPLE = Path(__file__).parents[1] / "ui" / "samples" / "boat.jpg"
"""A scene that the embedded model knows."""
DEMONSTRATION = (
    "Demonstration model: it knows drawn scenes of 120 objects. For photographs start with another model: "
    "make run MODEL=…, caption-serve serve --model …"
)
APPLICATION = "captions"
PAGE = "serve_app.app:build_page"
START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 90.0
FREE_MEMORY_BYTES = 3_000_000_000
"""What Ray and the service take with the embedded model, and some to spare."""


def _model(args: Mapping[str, Any]) -> str:
    """What captions: the model's name, or those of the captioners."""
    return SEVERAL.join(each["name"] for each in args.get("captioners", ())) or args.get("model", "demo")


@dataclass
class Served:
    """What a config serves, and where."""

    host: str
    port: int
    model: str
    page: bool = False

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


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
            raise CannotStart(f"Port {port} is for the root user; give one above 1023, such as 8001.") from None
        except OSError:
            raise CannotStart(
                f"Port {port} is in use; stop what listens there or give another, such as 8001."
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
    from serve_app.engine import check_captioner  # brings torch
    from serve_app.engine.blip import ANSWERING, MATCHING
    from serve_app.engine.checkpoint import resolve

    if model:
        check_captioner(model)
    for name, task in ((matcher, MATCHING), (answerer, ANSWERING)):
        if name:
            resolve(name, task=task)


def write_config(
    source: Path,
    target: Path,
    model: str | None,
    port: int | None,
    matcher: str | None = None,
    answerer: str | None = None,
) -> Served:
    """Copies a config with other models or another port; raises `CannotStart` and `OSError`.

    Beside another captioner the embedded matcher and answerer, which know drawn scenes only, are left out; so is the
    page if Gradio is not installed.
    """
    config = yaml.safe_load(source.read_text(encoding="utf-8"))
    if not isinstance(config, dict) or not config.get("applications"):
        raise CannotStart(f"{source}: not a Serve config; it has no applications.")
    http = config.setdefault("http_options", {})
    if port is not None:
        http["port"] = port
    if importlib.util.find_spec("gradio") is None:
        config["applications"] = [one for one in config["applications"] if one.get("import_path") != PAGE]
    captions = config["applications"][0]
    args = captions.setdefault("args", {})
    if model is not None and args.get("captioners"):
        raise CannotStart(f"{source} has several captioners; --model is for a config with one.")
    if model is not None:
        args["model"] = model
    for task, deployment, given in (("matcher", "Matcher", matcher), ("answerer", "Answerer", answerer)):
        if given is not None:
            args[task] = given
        elif model not in (None, "demo"):
            args.pop(task, None)
            captions["deployments"] = [one for one in captions.get("deployments", []) if one["name"] != deployment]
    target.write_text(yaml.safe_dump(config), encoding="utf-8")
    served = Served(http.get("host", "127.0.0.1"), http.get("port", 8000), _model(args))
    served.page = any(one.get("import_path") == PAGE for one in config["applications"])
    return served


def failure() -> str | None:
    """Why the application cannot be deployed, or None as long as it may still come up."""
    application = serve.status().applications.get(APPLICATION)
    if application is None or application.status != ApplicationStatus.DEPLOY_FAILED:
        return None
    messages = [application.message, *(deployment.message for deployment in application.deployments.values())]
    told = re.findall(r"serve_app\.errors\.\w+: (.+)", "\n".join(messages))
    return str(told[-1]) if told else "\n".join(filter(None, messages))


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns when `/readyz` says yes, and prints each deployment that is ready.

    Raises `CannotStart` when that cannot come or takes too long.
    """
    deadline, told = time.monotonic() + START_TIMEOUT_S, set[str]()
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotStart("The service ended while it started; its log says why.")
        if reason := failure():
            raise CannotStart(f"The service cannot be deployed: {reason}")
        for name in ready_deployments() - told:
            told.add(name)
            print(f"  {name} is ready", flush=True)
        try:
            if httpx.get(f"{url}/readyz", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise CannotStart(f"The service was not ready within {START_TIMEOUT_S:.0f} s.")


def ready_deployments() -> set[str]:
    application = serve.status().applications.get(APPLICATION)
    found = application.deployments.items() if application is not None else ()
    return {name for name, deployment in found if deployment.status == "HEALTHY"}


def show(served: Served, sample: Path, dashboard: str | None) -> None:
    """Captions the sample and says how to go on; a service that needs a key serves without a sample."""
    key = os.environ.get(KEY_VARIABLE)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url, shown = served.url, os.path.relpath(sample)
    try:
        with sample.open("rb") as image:
            answer = httpx.post(f"{url}/v1/captions", files={"image": image}, headers=headers, timeout=600)
        body = answer.json()
        told = body["caption"] if answer.is_success else f"no caption: {body['detail']}"
    except (httpx.HTTPError, ValueError, KeyError) as error:
        told = f"no caption: {error}"
    print(f"\n{shown}: {told}\n")
    if served.model == "demo":
        print(f"{DEMONSTRATION}\n")
    print(f"API          {url}/v1/captions, for example: curl -F image=@{shown} {url}/v1/captions")
    print(f"Description  {url}/docs")
    if served.page:
        print(f"Web page     {url}/ui")
    if dashboard:
        print(f"Ray          http://{dashboard}")
    print("Ctrl-C stops it.", flush=True)


def launch(
    config: Path,
    model: str | None,
    matcher: str | None,
    answerer: str | None,
    port: int | None,
    sample: Path,
    verbose: bool,
) -> int:
    """Runs the service until it ends or Ctrl-C; returns an exit code. None: what the config says."""
    # Jobs that are sent to the service find this environment's python without its activation.
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve_app.deployments.proxy:middlewares")
    with tempfile.TemporaryDirectory() as scratch:
        ours = Path(scratch) / "serve.yaml"
        try:
            served = _prepared(config, ours, model, matcher, answerer, port)
            if not sample.is_file():
                raise CannotStart(f"{sample}: no such file.")
            check_machine(served.host, served.port)
            check_models(model, matcher, answerer)
        except (CannotStart, ModelError) as error:
            print(error, file=sys.stderr)
            return 1
        return _run(ours, served, sample, verbose)


def _prepared(
    config: Path, ours: Path, model: str | None, matcher: str | None, answerer: str | None, port: int | None
) -> Served:
    try:
        return write_config(config, ours, model, port, matcher, answerer)
    except OSError as error:
        raise CannotStart(f"{config}: {error.strerror}.") from error
    except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise CannotStart(f"{config}: not a Serve config ({type(error).__name__}: {reason}).") from error


def _run(config: Path, served: Served, sample: Path, verbose: bool) -> int:
    descriptor, log = tempfile.mkstemp(prefix=f"caption-serve-{served.port}-", suffix=".log")
    told = "the terminal" if verbose else log
    print(f"Starting the service with {served.model!r} at {served.url}; Ray's and Serve's log: {told}", flush=True)
    _stop_on_signals()
    start = time.monotonic()
    with open(descriptor, "wb") as file:
        # The cluster is this process's own, so that its state can be asked for while it starts.
        level = logging.INFO if verbose else logging.ERROR
        context: Any = ray.init("local", log_to_driver=False, logging_level=level)
        _stop_on_signals()  # Ray has put its own handlers there
        command = [str(Path(sys.executable).parent / "serve"), "run", str(config)]
        environment = {**os.environ, "RAY_ADDRESS": context.address_info["gcs_address"]}
        # A session of its own: Ctrl-C reaches this process alone, which then stops Serve in order.
        output = None if verbose else file
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=output, stderr=output)
        try:
            wait_ready(served.url, process)
            print(f"Ready after {time.monotonic() - start:.0f} s.", flush=True)
            show(served, sample, context.dashboard_url)
            return process.wait()
        except CannotStart as error:
            reason = str(error)
        except KeyboardInterrupt:
            print("Stopping …", flush=True)
            return 0
        finally:
            stop(process)
    if not verbose:
        print(f"The log: {log}", file=sys.stderr)
    print(reason, file=sys.stderr)  # last, where it is seen
    return 1


def _stop_on_signals() -> None:
    # A shell that starts this in the background has it ignore SIGINT, and the child would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


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
