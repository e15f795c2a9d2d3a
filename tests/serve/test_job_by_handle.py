"""The batch job through the running service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lab import held_out
from lab.objects import nouns_in
from tests.serve.conftest import ROOT, Service

pytestmark = pytest.mark.extended


SCENE = held_out.SAMPLE.read_bytes()


def submit(service: Service, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A batch job on the service's cluster, as `ray job submit` starts it; what it says goes to `log`."""
    command = ["ray", "job", "submit", "--", sys.executable, "-m", "serve_app.batch", *arguments]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "RAY_ADDRESS": service.dashboard, "RAY_AUTH_MODE": "token"}
    with log.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=output)


@pytest.mark.timeout(400)
def test_a_job_through_the_service_leaves_room_for_others(service: Service, tmp_path: Path) -> None:
    """More at a time than half of the service holds: the job is told to wait, people who ask meanwhile never are."""
    out = tmp_path / "out"
    arguments = ("--out", str(out), "--via-handle", "captions", "--detail", "low", "--concurrency", "40")
    log = tmp_path / "log"
    statuses, behind = [], 0
    with service.client() as client:
        job = submit(service, log, str(ROOT / "lab" / "held_out"), *arguments)
        while job.poll() is None:
            answer = client.post("/v1/captions", files={"image": SCENE}, data={"detail": "low", "seed": "3"})
            statuses.append(answer.status_code)
            behind += (out / "_job" / "lock.json").exists()
    assert job.returncode == 0, log.read_text()
    assert behind > 5, "nobody asked while the job ran"
    assert set(statuses) == {200}
    rows = [row for file in out.glob("part-*.parquet") for row in pq.read_table(file).to_pylist()]
    assert len({row["path"] for row in rows}) == len(rows) == 200
    truth = {str(file): scene.nouns for file, scene in held_out.read()}
    right = [bool(truth[row["path"]] & nouns_in(row["caption"])) for row in rows]
    assert sum(right) >= 0.9 * len(right)


@pytest.mark.timeout(200)
def test_texts_are_compared_by_the_services_matcher(service: Service, tmp_path: Path) -> None:
    table, out, log = tmp_path / "shop.csv", tmp_path / "out", tmp_path / "log"
    table.write_text(
        f"path,alt\n{held_out.SAMPLE},a hamburger and a candle\n{held_out.SAMPLE},a snowman and a camel\n",
        encoding="utf-8",
    )
    job = submit(service, log, str(table), "--out", str(out), "--via-handle", "captions", "--texts", "alt")
    assert job.wait() == 0, log.read_text()
    [file] = out.glob("part-*.parquet")
    kept, written = pq.read_table(file).to_pylist()
    assert (kept["caption"], kept["source"]) == ("a hamburger and a candle", "existing")
    assert written["source"] == "new"
    assert "hamburger" in written["caption"]


@pytest.mark.timeout(200)
def test_a_job_without_its_service_ends_before_it_begins(service: Service, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = submit(service, log, str(ROOT / "lab" / "held_out"), "--out", str(tmp_path / "out"), "--via-handle", "pages")
    assert job.wait() != 0
    assert "There is no application 'pages' on this cluster." in log.read_text()
    assert not list((tmp_path / "out").glob("part-*"))
