"""The batch job as a user runs it: on this machine, and on a cluster of two nodes that loses its parts."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.batch import disturbed, draw, launch, progress_of, rows_of, undisturbed
from bench.cluster import ROOT, LocalCluster, wait_for
from lab import captions, held_out
from lab.objects import nouns_in

WORDS = ("--detail", "low", "--shard-size", "25", "--engines", "1", "--cpus-per-engine", "1")


def caption_serve(*words: str, timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "caption-serve"), "batch", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    # Not pytest's folder: Ray's sockets lie in it, and their paths must be short.
    with tempfile.TemporaryDirectory() as scratch, LocalCluster(Path(scratch)) as running:
        for _ in range(2):
            running.add_worker(cpus=2, gpus=0)
        yield running


def test_a_folder_with_everything_in_it_is_accounted_for(tmp_path: Path) -> None:
    """Good, broken, empty, oddly named, twice the same, links in a loop: one row each, and counts that say so."""
    source = tmp_path / "in"
    (source / "sub 🦓").mkdir(parents=True)
    scenes = [file for file, _ in held_out.read()][:20]
    for number, scene in enumerate(scenes):
        shutil.copy(scene, source / "sub 🦓" / f"{'x' * 100} {number:02d}.jpg")
    shutil.copy(scenes[0], source / "again.jpg")
    (source / "broken.jpg").write_bytes(scenes[0].read_bytes()[:700])
    (source / "empty.png").write_bytes(b"")
    (source / "diary.webp").write_bytes(b"Dear diary")
    (source / "gone.png").symlink_to(source / "nowhere.png")
    (source / "loop").symlink_to(source, target_is_directory=True)
    out = tmp_path / "captions.parquet"
    done = caption_serve(str(source), "--out", str(out), "--detail", "low", "--full")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    rows = pq.read_table(out / "part-00000.parquet").to_pylist()
    reasons = Counter(row["reason"] for row in rows)
    assert reasons == {None: 21, "invalid_image": 2, "unsupported_image": 1, "not_found": 1}
    truth = {file: scene.nouns for file, scene in held_out.read()}
    right = [
        bool(truth[scenes[int(row["path"][-6:-4])]] & nouns_in(row["caption"])) for row in rows if "xxx" in row["path"]
    ]
    assert len(right) == 20
    assert sum(right) >= 18
    summary = json.loads((out / "_job" / "summary.json").read_text())
    assert (summary["captioned"], summary["duplicates"], summary["failed"]) == (21, 1, 4)
    report = (out / "_job" / "report.html").read_text()
    assert report.count("data:image/jpeg") + report.count("class=error") == 4
    again = caption_serve(str(source), "--out", str(out), "--detail", "low", "--full")
    assert again.returncode == 1
    assert "0 to do" in again.stderr
    other = caption_serve(str(source), "--out", str(out), "--detail", "high", "--full")
    assert other.returncode == 2
    assert "options was" in other.stderr


def test_a_rehearsal_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    done = caption_serve("lab/held_out", "--out", str(tmp_path / "out"), "--detail", "low", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "200 inputs" in done.stdout
    assert "images/s of an engine" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("/nowhere", "--out", "{out}"), "There is no file or directory '/nowhere'."),
        (("lab/held_out", "--out", "{out}", "--model", "/nowhere"), "There is no directory '/nowhere'"),
        (("lab/held_out", "--out", "{out}", "--detail", "huge"), "detail:"),
        (("lab/held_out", "--out", "/proc/nothing"), "/proc/nothing cannot be written to:"),
        (("lab/held_out", "--out", "{out}", "--address", "127.0.0.1:1"), "There is no Ray cluster at '127.0.0.1:1'"),
    ],
)
def test_a_job_that_cannot_begin_is_one_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    done = caption_serve(*(word.format(out=tmp_path / "out") for word in words))
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address and the folder that it serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_table_on_the_web_whose_texts_are_kept_where_they_fit(web: tuple[str, Path], tmp_path: Path) -> None:
    """URLs in a table that lies behind a URL itself; alt texts that the image supports stay, others are replaced."""
    address, folder = web
    lines = ["image_url,alt,id"]
    for number, (file, scene) in enumerate(held_out.read()):
        if number < 12:
            shutil.copy(file, folder / file.name)
            there = "giraffe" in scene.nouns
            alt = captions.plain(scene) if number % 2 else f"two {'zebras' if there else 'giraffes'}"
            lines.append(f'{address}/{file.name},"{alt}",{number}')
    lines.append(f"{address}/gone.jpg,a dog,12")
    (folder / "table.csv").write_text("\n".join(lines))
    out = tmp_path / "out"
    words = ("--to", "jsonl", "--texts", "alt", "--keep", "id", "--fetch-host", "127.0.0.1")
    done = caption_serve(
        f"{address}/table.csv", "--out", str(out), *words, "--fetch-network", "127.0.0.0/8", "--detail", "low"
    )
    assert done.returncode == 1, done.stderr
    rows = [json.loads(line) for line in (out / "part-00000.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(number) for number in range(13)]
    assert rows[12]["reason"] == "fetch_failed"
    kept = [row["source"] for row in rows[:12]]
    assert kept[::2].count("new") >= 5
    assert kept[1::2].count("existing") >= 5
    assert all(row["caption"] and row["score"] >= 0.5 for row in rows[:12] if row["source"] == "existing")
    refused = caption_serve(f"{address}/table.csv", "--out", str(tmp_path / "o2"), *words, "--matcher", "none")
    assert refused.returncode == 2
    assert "--texts needs a matcher" in refused.stderr


def test_too_many_errors_stop_a_job_that_goes_on_later(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(40):
        (source / f"{number}.png").write_bytes(b"Dear diary")
    words = (str(source), "--out", str(tmp_path / "out"), "--engine", "instant")
    assert caption_serve(*words, "--max-errors", "5").returncode == 4
    assert caption_serve(*words).returncode == 3


def test_what_was_captioned_without_a_matcher_is_made_again_with_it(tmp_path: Path) -> None:
    scenes = draw(tmp_path / "scenes", 3)
    out = tmp_path / "out"
    words = (str(scenes), "--out", str(out), *WORDS)

    def fingerprints() -> list[str]:
        return [row["fingerprint"] for row in pq.read_table(out / "part-00000.parquet").to_pylist()]

    assert caption_serve(*words, "--matcher", "none").returncode == 0
    assert {made_by.split(".")[2] for made_by in fingerprints()} == {"none"}
    assert "args was" in caption_serve(*words).stderr
    again = caption_serve(*words, "--refresh-outdated")
    assert (again.returncode, "3 captions are made again." in again.stderr) == (0, True), again.stderr
    (made_by,) = {*fingerprints()}
    assert made_by.split(".")[2] != "none"
    last = caption_serve(*words, "--refresh-outdated")
    assert (last.returncode, "0 captions are made again." in last.stderr) == (0, True), last.stderr
    assert json.loads((out / "_job" / "summary.json").read_text())["rows_of_this_run"] == 0


@pytest.mark.timeout(600)
def test_kills_of_job_engine_and_node_lose_and_repeat_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    scenes = draw(tmp_path / "scenes", 160)
    plain = undisturbed(scenes, tmp_path / "plain", cluster, *WORDS)
    kinds = ["job", "engine", "node"]
    struck, _ = disturbed(scenes, tmp_path / "struck", cluster, kinds, 1, *WORDS, pause_s=6)
    rows = rows_of(tmp_path / "struck")
    assert struck["job"] >= 1
    assert len(rows) == len({row["path"] for row in rows}) == 160
    assert rows == plain


def test_an_interrupted_job_says_how_to_go_on_and_keeps_its_rows(cluster: LocalCluster, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {"RAY_ADDRESS": cluster.gcs_address, "RAY_AUTH_MODE": "disabled"}
    process = launch(held_out.DIRECTORY, out, *WORDS, environment=environment)
    wait_for(lambda: progress_of(out) > 20, "Rows")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert "The same command goes on from here." in Path(f"{out}.log").read_text()
    assert progress_of(out) > 20
    assert not (out / "_job" / "lock.json").exists()  # the next run is not kept waiting


def test_nothing_is_left_behind(cluster: LocalCluster) -> None:
    """Ends the cluster, as the last of these tests."""
    nodes = [cluster.head, *cluster.workers]
    cluster.__exit__()
    time.sleep(0.1)
    assert [process for node in nodes for process in node.processes()] == []
