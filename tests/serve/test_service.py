"""The running service, over HTTP, by handle, and when something breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from lab import held_out
from lab.objects import nouns_in
from tests.pictures import hostile
from tests.serve.conftest import CAPTION_SERVE, ROOT, Service

SCENE = held_out.SAMPLE.read_bytes()


def truth() -> set[str]:
    return next(scene.nouns for file, scene in held_out.read() if file == held_out.SAMPLE)


def wait_until(true: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.5)


def test_start_prints_a_caption_and_how_to_go_on(service: Service) -> None:
    printed = "".join(service.lines)
    line = next(line for line in service.lines if line.startswith(str(held_out.SAMPLE.relative_to(ROOT)) + ": "))
    assert truth() <= nouns_in(line)
    assert f"curl -F image=@{held_out.SAMPLE.relative_to(ROOT)} {service.url}/v1/captions" in printed
    assert "Ctrl-C stops it." in printed


def test_answer_is_complete_and_repeats(service: Service) -> None:
    with service.client() as client:
        first = client.post("/v1/captions", files={"image": SCENE}, headers={"x-request-id": "r-1"})
        again = client.post("/v1/captions", content=SCENE, headers={"content-type": "image/jpeg"})
    body = first.json()
    assert first.status_code == 200
    assert first.headers.get_list("x-request-id") == [body["id"]] == ["r-1"]
    assert truth() <= nouns_in(body["caption"])
    assert body["model"] == "demo"
    assert body["degraded"] == []
    assert len(body["variants"]) == 4
    assert {**again.json(), "id": 0, "timings_ms": 0} == {**body, "id": 0, "timings_ms": 0}


def test_odd_request_id_is_the_same_in_header_and_problem(service: Service) -> None:
    with service.client() as client:
        response = client.post("/v1/captions", content=b"x", headers={"x-request-id": "with space" * 20})
    assert response.status_code == 415
    assert [response.json()["request_id"]] == response.headers.get_list("x-request-id")


def test_health_readiness_and_description(service: Service) -> None:
    with service.client() as client:
        assert client.get("/healthz").text == "ok"
        assert client.get("/readyz").text == "ready"
        assert "swagger" in client.get("/docs").text.lower()
        assert "/v1/captions" in client.get("/openapi.json").json()["paths"]


def test_fan_out_of_separate_calls_does_not_hang(service: Service) -> None:
    """Calls made at once by one request shared an id in Ray's router, and three of four never came back."""
    options = {"detail": "low", "strategy": "classic"}
    with service.client(60) as client:
        answers = [client.post("/spread/v1/captions", files={"image": SCENE}, data=options) for _ in range(3)]
        together = client.post("/v1/captions", files={"image": SCENE}, data=options)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert {answer.json()["caption"] for answer in answers} == {together.json()["caption"]}


def test_many_requests_at_once_are_all_answered(service: Service) -> None:
    answers: list[httpx.Response] = []

    def ask(seed: int) -> None:
        with service.client(240) as client:
            data = {"detail": "low", "seed": str(seed)}
            answers.append(client.post("/v1/captions", files={"image": SCENE}, data=data))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 12


def test_hostile_files_leave_the_service_as_it_was(service: Service) -> None:
    """2xx and 4xx only, and the memory flat: a further pass over all files adds next to nothing."""
    options = {"strategy": "basic"}

    def send_all(client: httpx.Client) -> None:
        for name, (data, wanted) in hostile().items():
            response = client.post("/v1/captions", files={"image": ("a.jpg", data, "image/jpeg")}, data=options)
            assert response.status_code in wanted, (name, response.text)

    def memory() -> int:
        processes = service.replica_processes("Ingress") + service.replica_processes("Captioner")
        return sum(process.memory_info().rss for process in processes)

    assert len(hostile()) >= 30
    with service.client() as client:
        for _ in range(3):  # every intake thread keeps a little; the memory is flat once all have worked
            send_all(client)
        before = memory()
        send_all(client)
        assert memory() - before < 30_000_000
        assert client.post("/v1/captions", files={"image": SCENE}, data=options).status_code == 200


def test_time_that_runs_out_gives_504_or_a_degraded_answer(service: Service) -> None:
    with service.client() as client:
        nothing = client.post("/v1/captions", files={"image": SCENE}, data={"timeout_s": "0.001"})
    assert nothing.status_code == 504
    assert nothing.headers["content-type"] == "application/problem+json"


def test_client_that_leaves_cancels_its_work_in_the_replica(service: Service) -> None:
    # Not by session_latest: another test may have started a cluster meanwhile.
    opened = [Path(file.path) for process in service.replica_processes("Captioner") for file in process.open_files()]
    logs = [file for file in opened if file.name.startswith("replica_captions_Captioner_")]

    def cancelled() -> int:
        return sum(file.read_text(errors="replace").count("CANCELLED") for file in logs)

    def leave_early(seed: int) -> bool:
        with service.client(0.5) as client:
            try:
                client.post("/v1/captions", files={"image": SCENE}, data={"seed": seed, "prompts": ["a b c d"] * 8})
            except httpx.TimeoutException:
                return True
        return False

    before = cancelled()
    with ThreadPoolExecutor(12) as clients:
        left = list(clients.map(leave_early, range(12)))
    assert any(left), "the answers came too early for this test"
    wait_until(lambda: cancelled() > before, 30)
    with service.client() as client:
        assert client.post("/v1/captions", files={"image": SCENE}, data={"strategy": "basic"}).status_code == 200


@pytest.mark.extended
def test_killed_replica_costs_no_request(service: Service) -> None:
    """The only caption replica dies under a request: the call is sent again to its successor."""
    answers: list[httpx.Response] = []

    def ask() -> None:
        with service.client(240) as client:
            answers.append(client.post("/v1/captions", files={"image": SCENE}, data={"seed": "5"}))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.4)
    for process in service.replica_processes("Captioner"):
        process.kill()
    thread.join()
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    assert truth() <= nouns_in(answer.json()["caption"])


def test_captions_that_outlive_their_request_outlive_their_ingress_too(service: Service) -> None:
    with service.client() as client:
        headers = {"prefer": "respond-async"}
        answers = [client.post("/spread/v1/captions", files={"image": SCENE}, headers=headers) for _ in range(6)]
        assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(202, "queued")}
        addresses = [answer.headers["location"] for answer in answers]
        for process in service.replica_processes("Ingress", "spread"):
            process.kill()

        def found(address: str) -> str:
            try:
                answer = client.get(address)
            except httpx.TransportError:  # while no ingress replica is there
                return "unknown"
            return str(answer.json()["status"]) if answer.status_code == 200 else "unknown"

        wait_until(lambda: {found(address) for address in addresses} == {"done"}, 150)
        results = [client.get(address).json()["result"] for address in addresses]
    assert all(truth() <= nouns_in(result["caption"]) for result in results)
    assert {result["id"] for result in results} == {address.rpartition("/")[2] for address in addresses}


def test_ray_job_captions_bytes_images_and_arrays(service: Service) -> None:
    sample = held_out.SAMPLE.relative_to(ROOT)
    command = ["ray", "job", "submit", "--working-dir", str(ROOT / "examples"), "--"]
    command += [sys.executable, "caption_job.py", str(ROOT / sample)]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "RAY_ADDRESS": service.dashboard, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["form"] for line in lines] == ["bytes", "pil", "array"]
    for line in lines:
        assert truth() <= nouns_in(line["caption"])


@pytest.mark.extended
def test_job_captions_a_directory_through_a_service_that_is_busy(service: Service, tmp_path: Path) -> None:
    """More at a time than the service lets in: the client waits and asks again until every image is captioned."""
    output = tmp_path / "captions.jsonl"
    command = ["ray", "job", "submit", "--", sys.executable, str(ROOT / "examples" / "caption_many.py")]
    command += [str(ROOT / "lab" / "held_out"), str(output), "--concurrency", "80"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "RAY_ADDRESS": service.dashboard, "RAY_AUTH_MODE": "token"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert sorted(row["file"] for row in rows) == sorted(str(file) for file in (ROOT / "lab/held_out").glob("*.jpg"))
    right = {str(file): scene.nouns for file, scene in held_out.read()}
    found = [bool(right.get(row["file"], set()) & nouns_in(row["caption"])) for row in rows]
    assert sum(found) >= 0.9 * len(found)


def test_second_start_on_a_used_port_is_one_sentence(service: Service) -> None:
    port = service.url.rsplit(":", 1)[1]
    command = [CAPTION_SERVE, "serve", "--port", port]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"Port {port} is in use" in done.stderr
    assert "Traceback" not in done.stderr
