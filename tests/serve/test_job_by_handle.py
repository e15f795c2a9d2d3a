"""The batch job through the running service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from demo import held_out
from demo.objects import nouns_in
from tests.serve.conftest import ROOT, Service

SCENE = held_out.SAMPLE.read_bytes()


@pytest.mark.timeout(400)
def test_a_job_through_the_service_leaves_room_for_others(service: Service, tmp_path: Path) -> None:
    """More at a time than half of the service holds: the job is told to wait, people who ask meanwhile never are."""
    out = tmp_path / "out"
    command = ["ray", "job", "submit", "--", sys.executable, "-m", "serve_app.batch", str(ROOT / "demo" / "held_out")]
    command += ["--out", str(out), "--via-handle", "captions", "--detail", "low", "--concurrency", "40"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "RAY_ADDRESS": service.dashboard, "RAY_AUTH_MODE": "token"}
    log = tmp_path / "log"
    statuses, behind = [], 0
    with log.open("wb") as output, service.client() as client:
        job = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
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
