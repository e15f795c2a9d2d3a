"""Faults, rollouts and image affinity on a cluster of several nodes, under load from the first to the last second."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench import faults
from bench.cluster import ROOT, LocalCluster, wait_for
from tests.cluster.conftest import base_config, changed

RATE = 8.0
"""Requests per second that go on while things happen."""


def under_load(cluster: LocalCluster, happen: Callable[[], None]) -> faults.Tally:
    """What became of the requests that were sent while `happen` ran."""

    async def run() -> faults.Tally:
        tally = faults.Tally()
        event = asyncio.create_task(asyncio.to_thread(happen))
        await faults.load(cluster.url, tally, RATE, event.done)
        await event
        return tally

    return asyncio.run(run())


def assert_all_answered(tally: faults.Tally) -> None:
    assert tally.failures == []
    summary = tally.summary()
    assert (summary["ok"], summary["duplicates"], summary["mixed_up"]) == (tally.sent, 0, 0)


def processes(cluster: LocalCluster, deployment: str) -> set[int]:
    return {process.pid for process in cluster.replicas(deployment)}


def captioned_by(answer: httpx.Response) -> int:
    """The process whose instant engine wrote the caption."""
    assert answer.status_code == 200, answer.text
    words = answer.json()["caption"].split()
    return int(words[words.index("process") + 1])


def message(cluster: LocalCluster, deployment: str) -> str:
    """What `serve status` says of the deployment."""
    return str(cluster.deployment(deployment).get("message", ""))


def owners(cluster: LocalCluster, numbers: Iterable[int]) -> list[int]:
    """For each of so many images the process that captions it."""
    with httpx.Client(base_url=cluster.url, timeout=60) as client, ThreadPoolExecutor(8) as threads:

        def owner(number: int) -> int:
            return captioned_by(client.post("/v1/captions?detail=low", content=faults.noise(number)[0]))

        return list(threads.map(owner, numbers))


def settled(cluster: LocalCluster, captioners: int, ingresses: int = faults.WORKERS) -> Callable[[], bool]:
    def true() -> bool:
        application = cluster.status().get("applications", {}).get("captions", {})
        return (
            application.get("status") == "RUNNING"
            and cluster.running("Captioner") == len(processes(cluster, "Captioner")) == captioners
            and cluster.running("Ingress") == len(processes(cluster, "Ingress")) == ingresses
        )

    return true


def test_no_fault_costs_a_request(cluster: LocalCluster) -> None:
    """One of each kind: replicas, a node, its proxy, the controller and the head are killed, and a replica hangs."""
    storm = faults.Faults(cluster, random.Random(1))
    tally = faults.Tally()

    def strike() -> None:
        faults.strike(storm, list(storm.kinds), tally, random.Random(1))

    async def run() -> None:
        event = asyncio.create_task(asyncio.to_thread(strike))
        await faults.load(cluster.url, tally, RATE, event.done)
        await event

    asyncio.run(run())
    assert len(tally.by_fault) == 7
    assert_all_answered(tally)


def test_images_keep_their_replica_when_one_is_added(cluster: LocalCluster) -> None:
    """Consistent hashing: of three replicas' images about a quarter moves to a fourth, none between the three."""
    wait_for(settled(cluster, 3), "The end of the faults")
    numbers = range(90)
    before = owners(cluster, numbers)
    assert owners(cluster, numbers) == before
    assert min(Counter(before).values()) >= 90 / 3 / 3, "a replica gets far less than its share"
    cluster.add_worker()
    cluster.deploy(changed(base_config(cluster), "Captioner", num_replicas=4))
    wait_for(settled(cluster, 4), "The fourth replica")
    time.sleep(3)  # every ingress replica hears of it
    after = owners(cluster, numbers)
    fresh = set(after) - set(before)
    # The router goes to a neighbour for once if a replica does not say in time how long its queue is: asked again.
    strays = [number for number in numbers if after[number] not in {before[number], *fresh}]
    for number, owner in zip(strays, owners(cluster, strays), strict=True):
        after[number] = owner
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    print(f"{len(moved)} of {len(numbers)} images moved, {len(strays)} strayed once")
    assert len(strays) <= 3
    assert {new for _, new in moved} == fresh, "an image moved between replicas that stayed"
    assert 0.05 <= len(moved) / len(numbers) <= 0.5


def test_hot_image_spills_over_and_all_are_answered(cluster: LocalCluster) -> None:
    """200 requests for one image: more than its replica takes at once, so that neighbours help."""
    wait_for(settled(cluster, 4), "Four replicas")
    image, _ = faults.noise(12345)

    def ask(_: int) -> httpx.Response:
        return httpx.post(f"{cluster.url}/v1/captions?detail=low", content=image, timeout=120)

    with ThreadPoolExecutor(100) as clients:
        answers = list(clients.map(ask, range(200)))
    counts = Counter(captioned_by(answer) for answer in answers if answer.status_code == 200)
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert sum(counts.values()) >= 190
    assert len(counts) >= 2, "the hot image kept to one replica"


def test_live_settings_reach_the_running_replicas(cluster: LocalCluster) -> None:
    cluster.deploy(base_config(cluster))
    wait_for(settled(cluster, 3), "Three replicas again")
    ingresses = processes(cluster, "Ingress")
    config = changed(base_config(cluster), "Ingress", user_config={"max_prompts": 2})

    def asked_for_three_prompts() -> httpx.Response:
        params = {"prompts": ["a", "b", "c"], "detail": "low"}
        return httpx.post(f"{cluster.url}/v1/captions", content=faults.noise(1)[0], params=params, timeout=60)

    def change() -> None:
        assert asked_for_three_prompts().status_code == 200
        cluster.deploy(config)
        wait_for(lambda: all(asked_for_three_prompts().status_code == 422 for _ in range(9)), "The new limit", 60)

    assert_all_answered(under_load(cluster, change))
    assert processes(cluster, "Ingress") == ingresses, "no replica was restarted for it"


def test_wrong_live_settings_are_told_and_cost_no_request(cluster: LocalCluster) -> None:
    """Serve replaces one replica, sees that it can't start, and leaves the others alone until a better config comes."""

    def blunder() -> None:
        cluster.deploy(changed(base_config(cluster), "Ingress", user_config={"model": "other"}))
        wait_for(lambda: "not a live setting" in message(cluster, "Ingress"), "The reason", 60)
        cluster.deploy(base_config(cluster))
        wait_for(settled(cluster, 3), "The healthy state")

    assert_all_answered(under_load(cluster, blunder))


def test_rollout_of_a_new_version_loses_no_request(cluster: LocalCluster) -> None:
    before = processes(cluster, "Captioner") | processes(cluster, "Ingress")
    config = copy.deepcopy(base_config(cluster))
    config["applications"][0]["args"]["instant_delay_s"] = 0.4

    def roll_out() -> None:
        cluster.deploy(config)

        def replaced() -> bool:
            return not before & (processes(cluster, "Captioner") | processes(cluster, "Ingress"))

        wait_for(lambda: settled(cluster, 3)() and replaced(), "The new version", 240)

    assert_all_answered(under_load(cluster, roll_out))


def test_version_that_cannot_load_its_model_leaves_the_old_one_serving(cluster: LocalCluster) -> None:
    """The rollout stops at its first replica, and the others go on."""
    broken: dict[str, Any] = copy.deepcopy(base_config(cluster))
    broken["applications"][0]["args"] = {"engine": "decode", "model": "/no/such/model"}

    def blunder() -> None:
        cluster.deploy(broken)
        wait_for(lambda: "There is no directory '/no/such/model'" in message(cluster, "Captioner"), "The reason", 120)

    assert_all_answered(under_load(cluster, blunder))
    cluster.deploy(base_config(cluster))
    wait_for(settled(cluster, 3), "The healthy state", 240)


def test_an_image_that_crashes_replicas_is_not_given_to_a_third(cluster: LocalCluster) -> None:
    """An image that ended its replica's process was sent on, from one replica to the next."""
    config = changed(base_config(cluster), "Captioner", num_replicas=1)
    config["applications"][0]["args"]["instant_delay_s"] = 8  # the second one has not ended when it is seen to run
    cluster.deploy(config)
    wait_for(settled(cluster, 1), "One captioner", 240)

    def answer_when_killed_twice_by(cause: signal.Signals, seed: int) -> httpx.Response:
        url = f"{cluster.url}/v1/captions?strategy=basic"
        with ThreadPoolExecutor(1) as threads:
            answer = threads.submit(httpx.post, url, content=faults.noise(seed)[0], timeout=120)
            for _ in range(2):
                time.sleep(2)  # it is in work
                (process,) = cluster.replicas("Captioner")
                process.send_signal(cause)
                psutil.wait_procs([process])
                wait_for(settled(cluster, 1), "The next captioner")
            return answer.result()

    refused = answer_when_killed_twice_by(signal.SIGSEGV, 801)
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (422, "replicas-crashed"), refused.text
    assert captioned_by(answer_when_killed_twice_by(signal.SIGKILL, 802)) in processes(cluster, "Captioner")


def test_four_ingress_replicas_count_a_key_s_work_exactly_together(cluster: LocalCluster, tmp_path: Path) -> None:
    """Without a Redis each replica lets its share of the limit in; the balancer does not deal it out evenly."""
    keys = tmp_path / "keys"
    keys.write_text(f"alice:sha256:{hashlib.sha256(b'cs-alice').hexdigest()}\n", encoding="utf-8")
    config = changed(base_config(cluster), "Ingress", num_replicas=4)
    config["applications"][0]["args"] |= {
        "api_keys_file": str(keys),
        "redis_url": cluster.redis_url,
        "key_rows_per_minute": 50,
        "instant_delay_s": 0,
    }
    cluster.deploy(config)
    wait_for(settled(cluster, 3, ingresses=4), "Four ingress replicas", 240)
    image = faults.noise(1)[0]

    def ask(number: int) -> int:
        url = f"{cluster.url}/v1/captions?strategy=basic&seed={number}"
        return httpx.post(url, content=image, headers={"x-api-key": "cs-alice"}, timeout=60).status_code

    time.sleep(max(0.0, 62 - time.time() % 60) if time.time() % 60 > 40 else 0)  # all within one minute of the clock
    with ThreadPoolExecutor(16) as threads:
        statuses = Counter(threads.map(ask, range(160)))
    assert statuses == {200: 50, 429: 110}


def test_a_job_captions_through_the_handle_from_another_node(cluster: LocalCluster, tmp_path: Path) -> None:
    """examples/caption_many.py as a Ray job: its process is on the head, the replicas are on the workers."""
    output = tmp_path / "captions.jsonl"
    command = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", cluster.dashboard, "--"]
    command += [sys.executable, str(ROOT / "examples" / "caption_many.py"), str(ROOT / "lab/held_out"), str(output)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert len({row["file"] for row in rows}) == len({row["caption"] for row in rows}) == 200


def test_nothing_is_left_behind(cluster: LocalCluster) -> None:
    """Ends the cluster, as the last of these tests: no process of its nodes stays."""
    nodes = [cluster.head, *cluster.workers]
    cluster.__exit__()
    assert [process for node in nodes for process in node.processes()] == []
    folder = str(cluster.directory)
    assert [process.cmdline() for process in psutil.process_iter() if folder in " ".join(_command(process))] == []


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
