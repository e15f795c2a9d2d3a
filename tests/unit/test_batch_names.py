"""Any name is one row, nothing is written outside of the output, and no two inputs share a file."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.batch import index, rows, sinks, state
from serve_app.batch.command import settings_of
from serve_app.batch.folder import Folder
from serve_app.batch.inputs import Input
from serve_app.batch.job import Job, planned
from serve_app.batch.marks import mark_of
from serve_app.batch.names import Names, below, shown, sidecars
from serve_app.batch.settings import JobSettings
from serve_app.errors import InvalidOption
from tests.pictures import tiny as image

BODY: dict[str, Any] = {"caption": "a dog", "clauses": [], "fingerprint": "1.a.b.c"}


def captioned(folder: Folder, job: JobSettings, **more: Any) -> tuple[state.Plan, list[dict[str, Any]]]:
    """Runs a job without engines: every input is captioned with its path, but those that have an error."""
    plan = planned(folder, job, False, lambda _: None, **more)
    found: list[dict[str, Any]] = []
    for shard in plan.shards:
        if shard in state.done_shards(folder):
            continue
        inputs = index.load(folder, shard)
        made = [row_of(item, job) for item in inputs]
        for place, (reason, sentence) in sinks.write(folder, shard, inputs, made, job).items():
            made[place] = rows.failed(inputs[place], reason, sentence, job)
        state.mark_done(folder, shard, mark_of(made))
        found += made
    return plan, found


def row_of(item: Input, job: JobSettings) -> dict[str, Any]:
    if item.error:
        reason, _, sentence = item.error.partition(": ")
        return rows.failed(item, reason, sentence, job)
    if isinstance(item.location, bytes) and b"\0" not in item.file and os.path.isfile(item.location):
        data = Path(os.fsdecode(item.file)).read_bytes()
        if item.size < 0 and not data:
            return rows.failed(item, "invalid_image", "The image is empty.", job)
    return rows.captioned(item, {**BODY, "caption": item.path}, "digest", job)


def files_below(folder: Path) -> dict[str, bytes]:
    found = {}
    for path, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            full = os.path.join(path, name)
            relative = os.fsdecode(os.path.relpath(full, os.fsencode(folder)))
            if not relative.startswith("_job/") and not relative.startswith("p/_job/"):
                found[relative] = Path(os.fsdecode(full)).read_bytes()
    return found


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a/b.jpg", "a/b.jpg"),
        ("/etc/a.jpg", "etc/a.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("a/../b.jpg", "b.jpg"),
        ("../b.jpg", None),
        ("a/../../b.jpg", None),
        ("a\\..\\..\\b.jpg", None),
        ("C:/b.jpg", None),
        ("c:b.jpg", None),
        ("a\0b.jpg", None),
        ("_job/job.jpg", None),
        ("a/_job/b.jpg", "a/_job/b.jpg"),
        ("a/..", None),
        ("", None),
        ("\ud800.jpg", None),
    ],
)
def test_a_name_stays_below_the_output_or_is_none(name: str, path: str | None) -> None:
    assert below(name) == path


def test_names_that_meet_get_names_of_their_own() -> None:
    names = Names()
    taken = [names.take(sidecars(name, ".txt")) for name in ("p.jpg", "p.png", "p.png", "p.png.jpg", "q.png")]
    assert taken == ["p.txt", "p.png.txt", "p.png.2.txt", "p.png.jpg.txt", "q.txt"]


def tar_of(file: Path, members: Sequence[bytes]) -> None:
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in members:
            member = tarfile.TarInfo(os.fsdecode(name))
            member.size = len(image(0))
            tar.addfile(member, io.BytesIO(image(0)))


def test_tar_members_that_climb_are_rows_with_a_reason(tmp_path: Path) -> None:
    """Their captions were written beside the output."""
    tar_of(tmp_path / "t.tar", [b"good.jpg", b"../../evil.jpg", b"caf\xe9.jpg", b"/abs.jpg"])
    job = settings_of(str(tmp_path / "t.tar"), str(tmp_path / "o/p"), {"sink": "sidecar"})[0]
    _, found = captioned(Folder(str(tmp_path / "o/p")), job)
    assert [row["reason"] for row in found] == [None, "unsafe_name", None, None]
    assert sorted(files_below(tmp_path / "o")) == ["p/t/abs.txt", os.fsdecode(b"p/t/caf\xe9.txt"), "p/t/good.txt"]
    assert found[2]["path"].endswith("t.tar#caf\\xe9.jpg")


def test_a_link_in_the_output_leads_no_caption_out(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "t").symlink_to(tmp_path / "elsewhere")
    tar_of(tmp_path / "t.tar", [b"a.jpg"])
    job = settings_of(str(tmp_path / "t.tar"), str(tmp_path / "out"), {"sink": "sidecar"})[0]
    _, found = captioned(Folder(str(tmp_path / "out")), job)
    assert [row["reason"] for row in found] == ["unsafe_name"]
    assert files_below(tmp_path / "elsewhere") == {}


def test_urls_that_climb_and_lines_that_are_no_url(tmp_path: Path) -> None:
    """The first wrote outside of the output, the others ended the job with a traceback."""
    lines = b"http://h/../../up/evil.jpg\nhttp://\nhttp://h/caf\xe9.jpg\nhttp://h/ok.jpg?x=../..\n"
    (tmp_path / "list.txt").write_bytes(lines)
    job = settings_of(str(tmp_path / "list.txt"), str(tmp_path / "out"), {"sink": "sidecar"})[0]
    plan, found = captioned(Folder(str(tmp_path / "out")), job)
    assert [row["reason"] for row in found] == ["unsafe_name", None, None, None]
    written = sorted(files_below(tmp_path / "out"))
    assert written == [os.fsdecode(b"h/caf\xe9.txt"), "h/ok.txt", "unnamed.txt"]
    assert {*os.listdir(tmp_path)} == {"list.txt", "out"}
    assert index.load(Folder(str(tmp_path / "out")), 0)[2].location == "http://h/caf%E9.jpg"
    assert plan.inputs == 4


def test_a_name_too_long_is_one_row(tmp_path: Path) -> None:
    """The storage failed, again at each start, and no other image was captioned."""
    (tmp_path / "in").mkdir()
    for name in ("a" * 251 + ".jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(image(0))
    words = {"sink": "sidecar", "sidecar_suffix": ".caption"}
    job = settings_of(str(tmp_path / "in"), str(tmp_path / "out"), words)[0]
    _, found = captioned(Folder(str(tmp_path / "out")), job)
    assert [row["reason"] for row in found] == ["unwritable_name", None]
    assert [*files_below(tmp_path / "out")] == ["b.caption"]


def test_a_folder_in_place_of_a_sidecar_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "in" / name).write_bytes(image(0))
    job = settings_of(str(tmp_path / "in"), str(tmp_path / "out"), {"sink": "sidecar"})[0]
    planned(Folder(str(tmp_path / "out")), job, False, lambda _: None)
    (tmp_path / "out" / "a.txt").mkdir()
    _, found = captioned(Folder(str(tmp_path / "out")), job)
    assert [row["reason"] for row in found] == ["unwritable_name", None]


def test_captions_made_by_hand_stay(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(image(0))
    (tmp_path / "b.jpg").write_bytes(image(1))
    (tmp_path / "a.txt").write_text("by hand")
    folder = Folder(str(tmp_path))
    with pytest.raises(InvalidOption, match=r"1 images have a \.txt file that this job did not write"):
        captioned(folder, settings_of(str(tmp_path), str(tmp_path), {"sink": "sidecar"})[0])
    captioned(folder, settings_of(str(tmp_path), str(tmp_path), {"sink": "sidecar", "skip_existing": True})[0])
    assert (tmp_path / "a.txt").read_text() == "by hand"
    assert (tmp_path / "b.txt").exists()


def test_a_caption_made_by_hand_while_the_job_runs_stays(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(image(0))
    folder = Folder(str(tmp_path))
    job = settings_of(str(tmp_path), str(tmp_path), {"sink": "sidecar"})[0]
    planned(folder, job, False, lambda _: None)
    (tmp_path / "a.txt").write_text("by hand")
    _, found = captioned(folder, job)
    assert found[0]["reason"] == "sidecar_exists"
    assert (tmp_path / "a.txt").read_text() == "by hand"


def test_a_finished_job_goes_on_with_what_is_new_and_tries_what_failed(tmp_path: Path) -> None:
    """A second run saw neither new nor repaired images."""
    (tmp_path / "in").mkdir()
    folder = Folder(str(tmp_path / "out"))
    job = settings_of(str(tmp_path / "in"), str(tmp_path / "out"), {"sink": "jsonl"})[0]
    (tmp_path / "in" / "1.png").write_bytes(image(1))
    (tmp_path / "in" / "2.png").write_bytes(b"")
    captioned(folder, job)
    first = folder.read("part-00000.jsonl")
    assert captioned(folder, job)[1] == []
    (tmp_path / "in" / "0.png").write_bytes(image(0))
    (tmp_path / "in" / "2.png").write_bytes(image(2))
    plan, found = captioned(folder, job)
    assert [Path(row["path"]).name for row in found] == ["0.png"]
    plan, found = captioned(folder, job, retry_failed=True)
    assert [(Path(row["path"]).name, row["reason"]) for row in found] == [("2.png", None)]
    assert plan.inputs == 3
    assert folder.read("part-00000.jsonl") == first
    tally = Job(folder, plan, settings_of("x", "y", {})[1], state.Lock(folder)).tally
    assert (tally.total, tally.captioned, tally.failed) == (3, 3, 0)
    assert captioned(folder, job, retry_failed=True)[1] == []


NAMES = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"\1"))
PARTS = st.lists(
    st.sampled_from(
        [b"..", b".", b"a", b"A", b"a.jpg", b"a.png", b"", b"caf\xe9", "é".encode(), b"_job", b"C:", b"x" * 255]
    ),
    min_size=1,
    max_size=5,
)
PATHS = st.one_of(NAMES, PARTS.map(b"/".join), PARTS.map(b"\\".join)).filter(lambda name: b"/._" not in b"/" + name)
"""Those that begin with ._ are macOS's, and no inputs."""
SINKS = st.sampled_from(["sidecar", "jsonl", "csv", "parquet", "webdataset"])


@given(st.lists(PATHS, min_size=1, max_size=12), SINKS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_names_in_a_tar(tmp_path_factory: pytest.TempPathFactory, members: list[bytes], sink: str) -> None:
    root = tmp_path_factory.mktemp("names")
    tar_of(root / "t.tar", [name + b"-n.jpg" for name in members])
    job = settings_of(str(root / "t.tar"), str(root / "out" / "put"), {"sink": sink})[0]
    check_job(root, job, len(members))


@given(st.lists(PATHS, min_size=1, max_size=12), SINKS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_names_in_a_list(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], sink: str) -> None:
    root = tmp_path_factory.mktemp("names")
    names = [line for line in (line.replace(b"\n", b"").replace(b"\r", b"") for line in lines) if line]
    (root / "list.txt").write_bytes(b"x.jpg\n" + b"\n".join(b"http://h/" + name for name in names))
    job = settings_of(str(root / "list.txt"), str(root / "out" / "put"), {"sink": sink})[0]
    check_job(root, job, len(names) + 1)


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=300),
    PARTS.map(lambda parts: shown("/".join(map(os.fsdecode, parts)))),
)
"""Names as cells of tables have them; in JSON also halves of surrogate pairs."""
TABLES: dict[str, Callable[[Path, list[str]], object]] = {
    ".csv": lambda file, names: pd.DataFrame({"path": names, "n": range(len(names))}).to_csv(
        file, index=False, quoting=csv.QUOTE_ALL
    ),
    ".jsonl": lambda file, names: file.write_text("".join(json.dumps({"path": name}) + "\n" for name in names)),
    ".parquet": lambda file, names: pd.DataFrame({"path": names}).to_parquet(file),
    ".arrow": lambda file, names: pd.DataFrame({"path": names}).to_feather(file),
}


@pytest.mark.parametrize("suffix", TABLES)
@given(names=st.lists(TEXTS, min_size=1, max_size=12), sink=SINKS, cut=st.integers(0, 12))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_names_in_a_table(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, names: list[str], sink: str, cut: int
) -> None:
    root = tmp_path_factory.mktemp("names")
    if suffix == ".jsonl":
        names = [*names, "half \ud83d.jpg"]
    TABLES[suffix](root / f"t{suffix}", names)
    (root / "a.jpg").write_bytes(image(1))
    job = settings_of(str(root / f"t{suffix}"), str(root / "out" / "put"), {"sink": sink, "shard_size": 3})[0]
    check_job(root, job, len(names), cut)


@given(st.lists(PATHS, min_size=1, max_size=12), SINKS, st.integers(0, 12), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_names_in_a_folder(
    tmp_path_factory: pytest.TempPathFactory, paths: list[bytes], sink: str, cut: int, by_glob: bool
) -> None:
    root = tmp_path_factory.mktemp("names")
    top = os.fsencode(root / "in")
    count = 0
    for number, path in enumerate(paths):
        parts = [b"n" + part.replace(b"/", b"") for part in path.split(b"/")][:4]
        file = os.path.join(top, *parts) + b"-%d" % (number // 2) + (b".jpg" if number % 2 else b".PNG")
        try:
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "xb") as stream:
                stream.write(image(number))
            count += 1
        except OSError:
            continue  # too long for this storage, or there already
    if not count:
        return
    source = str(root / "in") + ("/**" if by_glob else "")
    job = settings_of(source, str(root / "out" / "put"), {"sink": sink, "shard_size": 3})[0]
    check_job(root, job, count, cut)


def cut_off(folder: Folder, job: JobSettings, most: int) -> None:
    """A run that is killed after `most` rows, of which the last one was not on storage yet."""
    plan = planned(folder, job, False, lambda _: None)
    run = Job(folder, plan, settings_of("x", "y", {})[1], state.Lock(folder))
    left = most
    for shard in plan.shards:
        for place, item in enumerate(index.load(folder, shard)):
            if left == 1:
                run._journal.flush()
            if not left:
                return
            run._take(shard, place, row_of(item, job), 0)
            left -= 1


def finished(folder: Folder, job: JobSettings) -> tuple[int, list[dict[str, Any]]]:
    """Runs what is left to do: how many rows it made, and all rows of the job."""
    plan = planned(folder, job, False, lambda _: None)
    run = Job(folder, plan, settings_of("x", "y", {})[1], state.Lock(folder))
    made, found = 0, []
    for shard in [shard for shard, have in run._open.items() if len(have) == plan.size_of(shard)]:
        run._finish(shard)
    for shard in plan.shards:
        have = run._open.get(shard, {})
        for place, item in enumerate(index.load(folder, shard)):
            if shard not in run._done and place not in have:
                run._take(shard, place, row_of(item, job), 0)
                made += 1
    for shard, mark in state.done_marks(folder):
        inputs = index.load(folder, shard)
        failed = {int(place): rows.failed(inputs[int(place)], why, why, job) for place, why in mark.failed.items()}
        found += sinks.read(folder, shard, job, failed)
    assert (run.tally.total, run.tally.rows) == (len(found), len(found))
    return made, [dict(row) for row in found]


def check_job(root: Path, job: JobSettings, count: int, cut: int = 0) -> None:
    """One row an input, nothing outside of the output, sidecars one to one, and a second run adds nothing; a run that
    is killed after `cut` rows goes on."""
    before = set(os.listdir(root))
    folder = Folder(str(root / "out" / "put"))
    cut_off(folder, job, cut)
    made, found = finished(folder, job)
    assert made >= count - cut
    assert len(found) == count
    assert {*os.listdir(root)} - before <= {"out"}
    assert os.listdir(root / "out") == ["put"]
    for row in found:
        row["path"].encode()
        assert (row["caption"] is None) == (row["reason"] is not None)
    files = files_below(root / "out" / "put")
    if job.sink == "sidecar":
        captions = sorted(row["caption"] for row in found if row["caption"] is not None)
        assert sorted(data.decode() for data in files.values()) == captions
    assert finished(folder, job) == (0, found)
    assert files_below(root / "out" / "put") == files


def test_names_are_shown_as_text() -> None:
    assert shown(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert shown("\ud800") == "\\ud800"
    shown(os.fsdecode(bytes(range(256)))).encode()
