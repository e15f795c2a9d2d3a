"""A cluster of three workers behind HAProxies and a load balancer, with the instant engine."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import faults
from bench.cluster import LocalCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    # Not pytest's folder: Ray's sockets lie in it, and their paths must be short.
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(
            Path(scratch), {**faults.settings(), "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5"}
        ) as running,
    ):
        for _ in range(faults.WORKERS):
            running.add_worker()
        running.deploy(base_config(running))
        running.wait_healthy()
        yield running


def base_config(cluster: LocalCluster) -> dict[str, Any]:
    return faults.config(cluster.head.port)


def changed(config: dict[str, Any], deployment: str, **options: Any) -> dict[str, Any]:
    """A copy of a config with other options of one deployment."""
    copied = copy.deepcopy(config)
    (found,) = (item for item in copied["applications"][0]["deployments"] if item["name"] == deployment)
    found.update(options)
    return copied
