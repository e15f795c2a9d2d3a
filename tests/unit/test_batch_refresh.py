"""`--refresh-outdated`: what something older made is made again, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve_app.batch import index, rows, sinks, state
from serve_app.batch.folder import Folder
from serve_app.batch.job import Job, planned
from serve_app.batch.marks import mark_of
from serve_app.batch.settings import JobSettings, RunSettings
from serve_app.errors import InvalidOption
from tests.pictures import tiny
from tests.unit.test_batch_state import BODY, job

OLD, NEW = "1.old.m.s", "1.new.m.s"
SINKS = ("parquet", "jsonl", "csv", "webdataset", "sidecar")


def body(caption: str, fingerprint: str) -> dict[str, Any]:
    return {**BODY, "caption": caption, "fingerprint": fingerprint}


def finished(source: Path, out: Path, settings: JobSettings) -> Folder:
    """A job of two shards: four captions, of which 1 is new, and a broken image; then three that are all new."""
    source.mkdir(exist_ok=True)
    for number in range(8):
        (source / f"{number}.png").write_bytes(tiny(number))
    folder = Folder(str(out))
    planned(folder, settings, False, lambda _: None)
    for shard in (0, 1):
        inputs = index.load(folder, shard)
        made = [NEW if shard or place == 1 else OLD for place in range(len(inputs))]
        found: list[Any] = [
            rows.captioned(item, body(f"first, {item.stem}", made[place]), f"d{place}", settings)
            for place, item in enumerate(inputs)
        ]
        if not shard:
            found[4] = rows.failed(inputs[4], "invalid_image", "The image cannot be decoded.", settings)
        assert sinks.write(folder, shard, inputs, found, settings) == {}
        state.mark_done(folder, shard, mark_of(found))
    return folder


def refreshed(folder: Folder, settings: JobSettings, *, kill_after_opening: bool = False) -> list[int]:
    """Runs what the flag opens, and returns the places that were captioned again."""
    told: list[str] = []
    plan = planned(folder, settings, False, told.append, refresh_outdated=lambda: NEW)
    if kill_after_opening:
        plan = planned(folder, settings, False, told.append)
    run = Job(folder, plan, RunSettings(out=folder.url), state.Lock(folder))
    again = []
    for shard in [shard for shard in plan.shards if shard not in run._done]:
        have = run._open.get(shard, {})
        for place, item in enumerate(index.load(folder, shard)):
            if place not in have:
                again.append(place)
                run._take(shard, place, rows.captioned(item, body(f"again, {item.stem}", NEW), "d", settings), 0)
    assert {*state.done_shards(folder)} == {0, 1}
    assert (run.tally.captioned, run.tally.failed) == (7, 1)
    return again


def captions(folder: Folder, settings: JobSettings, shard: int) -> list[str | None]:
    mark = dict(state.done_marks(folder))[shard]
    inputs = index.load(folder, shard)
    failed = {int(place): rows.failed(inputs[int(place)], why, why, settings) for place, why in mark.failed.items()}
    return [row["caption"] for row in sinks.read(folder, shard, settings, failed)]


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("killed", [False, True])
def test_only_what_is_outdated_is_made_again(tmp_path: Path, sink: str, full: bool, killed: bool) -> None:
    settings = job(tmp_path / "in", sink=sink, shard_size=5, full=full)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    of_the_other_shard = [name for name in folder.names() if "part-00001" in name or name[0] in "567"]
    other = {name: (tmp_path / "out" / name).read_bytes() for name in of_the_other_shard}
    untouched = sinks.read(folder, 0, settings, {4: {}})[1]
    assert refreshed(folder, settings, kill_after_opening=killed) == [0, 2, 3]
    assert captions(folder, settings, 0) == ["again, 0", "first, 1", "again, 2", "again, 3", None]
    assert sinks.read(folder, 0, settings, {4: {}})[1] == untouched
    assert {name: (tmp_path / "out" / name).read_bytes() for name in other} == other
    assert refreshed(folder, settings) == []
    if sink == "sidecar":
        assert [(tmp_path / "out" / f"{number}.txt").read_text() for number in (0, 1)] == ["again, 0", "first, 1"]
        assert not (tmp_path / "out" / "4.txt").exists()


def test_a_sidecar_that_a_person_edited_stays(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", sink="sidecar", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    (tmp_path / "out" / "2.txt").write_text("My own words.")
    assert refreshed(folder, settings) == [0, 3]
    assert (tmp_path / "out" / "2.txt").read_text() == "My own words."
    assert (tmp_path / "out" / "3.txt").read_text() == "again, 3"


def test_restart_takes_its_sidecars_along_and_leaves_those_of_people(tmp_path: Path) -> None:
    """`--restart` left sidecars behind and then refused to begin because of them."""
    settings = job(tmp_path / "in", sink="sidecar", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    assert planned(folder, settings, True, lambda _: None).inputs == 8
    assert [name for name in folder.names() if name.endswith(".txt")] == []
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    (tmp_path / "out" / "2.txt").write_text("My own words.")
    with pytest.raises(InvalidOption, match="that this job did not write"):
        planned(folder, settings, True, lambda _: None)
    assert [name for name in folder.names() if name.endswith(".txt")] == ["2.txt"]


def test_a_text_that_was_kept_is_nothing_that_the_job_made(tmp_path: Path) -> None:
    source = tmp_path / "t.jsonl"
    (tmp_path / "a.png").write_bytes(tiny(1))
    source.write_text(json.dumps({"image": "a.png", "alt": "a dog"}) + "\n")
    settings = job(source, texts_column="alt", args={"matcher": "demo"}, shard_size=5)
    folder = Folder(str(tmp_path / "out"))
    planned(folder, settings, False, lambda _: None)
    (item,) = index.load(folder, 0)
    found = [rows.kept(item, "a dog", 0.9, "d", settings)]
    sinks.write(folder, 0, [item], found, settings)
    state.mark_done(folder, 0, mark_of(found))
    planned(folder, settings, False, lambda _: None, refresh_outdated=lambda: NEW)
    assert state.done_shards(folder) == [0]


def test_the_model_may_be_another_one_then_and_nothing_else(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    other = settings.model_copy(update={"args": {"model": "another"}})
    with pytest.raises(InvalidOption, match="args was"):
        planned(folder, other, False, lambda _: None)
    with pytest.raises(InvalidOption, match="template was"):
        planned(folder, other.model_copy(update={"template": "a"}), False, lambda _: None, refresh_outdated=lambda: NEW)
    planned(folder, other, False, lambda _: None, refresh_outdated=lambda: NEW)
    planned(folder, other, False, lambda _: None)


def test_output_that_is_gone_or_changed_is_one_sentence(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    (tmp_path / "out" / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(InvalidOption, match="not as this job wrote it"):
        planned(folder, settings, False, lambda _: None, refresh_outdated=lambda: NEW)
    (tmp_path / "out" / "part-00000.parquet").unlink()
    with pytest.raises(InvalidOption, match="lacks the rows of shard 0"):
        planned(folder, settings, False, lambda _: None, refresh_outdated=lambda: NEW)
    assert state.done_shards(folder) == [0, 1]


def test_a_try_that_fails_leaves_the_caption_that_was_there(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", sink="sidecar", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    plan = planned(folder, settings, False, lambda _: None, refresh_outdated=lambda: NEW)
    run = Job(folder, plan, RunSettings(out=folder.url), state.Lock(folder))
    have = set(run._open[0])
    for place, item in enumerate(index.load(folder, 0)):
        if place not in have:
            run._take(0, place, rows.failed(item, "not_found", "There is no such file.", settings), 0)
    assert captions(folder, settings, 0) == ["first, 0", "first, 1", "first, 2", "first, 3", None]
    assert (run.tally.captioned, run.tally.failed) == (7, 1)
    assert refreshed(folder, settings) == [0, 2, 3]  # outdated as they are


def test_an_image_that_is_gone_stays_in_its_tar(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", sink="webdataset", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    (tmp_path / "in" / "1.png").unlink()
    assert refreshed(folder, settings) == [0, 2, 3]
    assert captions(folder, settings, 0)[1] == "first, 1"


def test_rows_of_a_shard_that_was_finished_do_not_come_back_from_the_journal(tmp_path: Path) -> None:
    """A file of the journal stays for its other shards; its old rows of this one were taken for new."""
    settings = job(tmp_path / "in", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    folder.remove("_job/done/00001.json")
    folder.remove("part-00001.parquet")
    journal = state.Journal(folder)
    for shard in (0, 1):
        item = index.load(folder, shard)[0]
        journal.add(shard, 0, rows.captioned(item, body("old", OLD if not shard else NEW), "d", settings))
    journal.flush()
    assert sorted(refreshed(folder, settings)) == [0, 1, 2, 2, 3]
    assert captions(folder, settings, 0)[0] == "again, 0"
    assert captions(folder, settings, 1)[0] == "old"


def test_rows_that_somebody_sorted_are_not_taken_for_ours(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", sink="jsonl", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    lines = (tmp_path / "out" / "part-00000.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out" / "part-00000.jsonl").write_text("".join(reversed(lines)))
    with pytest.raises(InvalidOption, match="not those that this job wrote"):
        planned(folder, settings, False, lambda _: None, refresh_outdated=lambda: NEW)


def test_restart_after_an_interrupted_refresh_takes_its_sidecars_along(tmp_path: Path) -> None:
    settings = job(tmp_path / "in", sink="sidecar", shard_size=5)
    folder = finished(tmp_path / "in", tmp_path / "out", settings)
    planned(folder, settings, False, lambda _: None, refresh_outdated=lambda: NEW)
    assert planned(folder, settings, True, lambda _: None).inputs == 8
