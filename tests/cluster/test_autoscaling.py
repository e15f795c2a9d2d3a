"""Ray's own autoscaler: nodes follow replicas, and replicas follow the load, down to none."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bench import autoscaling, faults
from bench.cluster import LocalCluster, wait_for

pytestmark = pytest.mark.slow


@contextmanager
def empty_cluster() -> Iterator[LocalCluster]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(Path(scratch), faults.settings(), autoscaling.AUTOSCALER) as running,
    ):
        autoscaling.connect(running)
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with empty_cluster() as running:
        running.deploy(autoscaling.config(running))
        running.wait_healthy()
        wait_for(lambda: autoscaling.gpu_nodes(running) == 1, "One GPU node")
        yield running


def test_nodes_and_replicas_follow_the_load_up_and_down(cluster: LocalCluster) -> None:
    tally, timeline = asyncio.run(autoscaling.run(cluster))
    assert tally.failures == []
    assert (tally.ok, tally.shed) == (tally.sent, 0)
    assert max(timeline.replicas) == max(timeline.nodes) == 3
    assert (timeline.replicas[-1], timeline.nodes[-1]) == (1, 1)


def test_first_request_to_a_service_at_zero_waits_for_the_replica(cluster: LocalCluster) -> None:
    cluster.deploy(autoscaling.config(cluster, min_replicas=0))
    wait_for(lambda: cluster.running("Captioner") == 0 and autoscaling.gpu_nodes(cluster) == 0, "Scale to zero")
    answer = httpx.post(f"{cluster.url}/v1/captions?detail=low", content=faults.noise(1)[0], timeout=120)
    assert answer.status_code == 200, answer.text
    assert autoscaling.gpu_nodes(cluster) == 1


def test_each_captioner_grows_under_its_own_load() -> None:
    with empty_cluster() as cluster:
        config = autoscaling.config(cluster)
        (captions,) = config["applications"]
        ingress, captioner = captions["deployments"]
        engine = {name: captions["args"].pop(name) for name in ("engine", "instant_delay_s")}
        captions["args"]["captioners"] = [{"name": name, **engine} for name in ("wanted", "idle")]
        names = ("Captioner-wanted", "Captioner-idle")
        captions["deployments"] = [ingress, *({**captioner, "name": name} for name in names)]
        cluster.deploy(config)
        cluster.wait_healthy()
        wait_for(lambda: [cluster.running(name) for name in names] == [1, 1], "A replica of each captioner")

        async def flood() -> list[int]:
            image = {"image": faults.noise(1)[0]}
            async with httpx.AsyncClient(base_url=cluster.url, timeout=120) as client:

                async def one() -> int:
                    answer = await client.post("/v1/captions?detail=low", files=image, data={"use": "wanted"})
                    return answer.status_code

                found: list[int] = []
                while cluster.running("Captioner-wanted") < 2 and len(found) < 1000:
                    found += await asyncio.gather(*(one() for _ in range(10)))
                return found

        assert set(asyncio.run(flood())) == {200}
        assert [cluster.running(name) for name in names] == [2, 1]
