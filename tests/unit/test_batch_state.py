"""What a job keeps: settings, lock, journal, finished shards; and what its rows look like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import webdataset

from serve_app.batch import index, rows, sinks, state
from serve_app.batch.command import settings_of
from serve_app.batch.folder import Folder
from serve_app.batch.inputs import Input
from serve_app.batch.intake import read_all
from serve_app.batch.job import planned
from serve_app.batch.marks import mark_of
from serve_app.batch.settings import JobSettings
from serve_app.errors import InvalidOption
from tests.pictures import tiny

BODY: dict[str, Any] = {
    "caption": "A dog, a cat and a bird",
    "clauses": [
        {
            "text": "A dog", "start": 0, "end": 5, "statement": "There is a dog.", "score": 0.93,
            "source": {"kind": "variant", "index": 1, "captioner": "demo", "prompt": "a photography of"},
            "whole": False,
        }
    ],
    "contested": [{"text": "A mouse.", "score": 0.31, "against": "A cat.", "against_score": 0.92}],
    "answers": [
        {"question": "is it red?", "answer": "no", "probability": 0.9, "statement": None, "accepted": False}
    ],
    "variants": [{"prompt": "a photography of", "text": "A dog", "score": None}],
    "rounds": [{"round": 2, "text": "A dog and more", "accepted": False}],
    "degraded": [],
    "notices": ["Left out for the length: 2 statements."],
    "seed": 0,
    "model": "demo",
    "fingerprint": "1.a.b.c",
    "timings_ms": {"total": 1.5},
}  # fmt: skip


def job(source: Path, **given: Any) -> JobSettings:
    return settings_of(str(source), "/nowhere", given)[0]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(tiny(number))
    return folder


def written(images: Path, out: Path, **given: Any) -> tuple[JobSettings, list[dict[str, Any]]]:
    """One shard of two captioned images and a broken one, through the sink."""
    settings = job(images, **given)
    folder = Folder(str(out))
    planned(folder, settings, False, lambda _: None)
    inputs = index.load(folder, 0)
    found = [rows.captioned(item, BODY, f"d{place}", settings) for place, item in enumerate(inputs)]
    found[1] = rows.failed(inputs[1], "invalid_image", "The image cannot be decoded: truncated.", settings)
    finish(folder, 0, found, settings)
    return settings, found


def finish(folder: Folder, shard: int, found: list[dict[str, Any]], settings: JobSettings) -> None:
    assert sinks.write(folder, shard, index.load(folder, shard), found, settings) == {}
    state.mark_done(folder, shard, mark_of(found))


@pytest.mark.parametrize("full", [False, True])
def test_parquet_opens_in_pandas_and_datasets(images: Path, tmp_path: Path, full: bool) -> None:
    written(images, tmp_path / "out", full=full)
    table = pd.read_parquet(tmp_path / "out")
    assert table["caption"].fillna("none").tolist() == [BODY["caption"], "none", BODY["caption"]]
    assert table["reason"].tolist()[1] == "invalid_image"
    if full:
        assert dict(table["clauses"][0][0]) == BODY["clauses"][0]
        assert dict(table["contested"][0][0]) == BODY["contested"][0]
        assert list(table["notices"][0]) == BODY["notices"]
        assert json.loads(table["timings_ms"][0]) == {"total": 1.5}
    loaded = datasets.load_dataset(
        "parquet", data_files=f"{tmp_path}/out/part-*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["path"] == [f"{images}/{number}.png" for number in range(3)]


def test_jsonl_and_csv(images: Path, tmp_path: Path) -> None:
    _, found = written(images, tmp_path / "j", sink="jsonl", full=True)
    lines = (tmp_path / "j" / "part-00000.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found
    written(images, tmp_path / "c", sink="csv", full=True)
    table = pd.read_csv(tmp_path / "c" / "part-00000.csv", keep_default_na=False)
    assert table["caption"].tolist() == [BODY["caption"], "", BODY["caption"]]
    assert json.loads(table["clauses"][0]) == BODY["clauses"]
    assert json.loads(table["contested"][0]) == BODY["contested"]


def test_sidecars_lie_where_training_tools_look(images: Path, tmp_path: Path) -> None:
    written(images, images, sink="sidecar", sidecar_suffix=".caption", template="{stem}: {caption}")
    assert sorted(file.name for file in images.glob("*.caption")) == ["0.caption", "2.caption"]
    assert (images / "0.caption").read_text() == "0: A dog, a cat and a bird"


def test_webdataset_opens_in_its_own_package(images: Path, tmp_path: Path) -> None:
    written(images, tmp_path / "out", sink="webdataset")
    samples = list(webdataset.WebDataset(f"{tmp_path}/out/part-00000.tar", shardshuffle=False))
    assert [sample["txt"].decode() for sample in samples] == [BODY["caption"]] * 2
    assert [sample["png"] for sample in samples] == [(images / f"{number}.png").read_bytes() for number in (0, 2)]
    assert json.loads(samples[1]["json"])["path"] == f"{images}/2.png"


def test_finished_output_is_never_written_again(images: Path, tmp_path: Path) -> None:
    settings, found = written(images, tmp_path / "out")
    part = tmp_path / "out" / "part-00000.parquet"
    before = part.stat()
    finish(Folder(str(tmp_path / "out")), 0, found, settings)
    assert part.stat().st_ino == before.st_ino


@pytest.mark.parametrize("template", ["{", "{caption", "{name}", "{caption.__class__}", "{0}", "{}"])
def test_bad_templates_are_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(InvalidOption, match="--template takes"):
        job(tmp_path, template=template)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"skip_existing": True}, "sidecars"),
        ({"column": "a"}, "tables"),
        ({"sidecar_suffix": "txt", "sink": "sidecar"}, "dot"),
        ({"options": {"detail": "huge"}}, "detail"),
        ({"options": {"strategy": "fine"}}, "strategy"),
        ({"options": {"max_characters": 19}}, "max_characters"),
        ({"shard_size": 0}, "--shard-size"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path: Path, given: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidOption, match=word):
        job(tmp_path, **given)


def plan(images: Path, out: Path, restart: bool = False, **given: Any) -> state.Plan:
    return planned(Folder(str(out)), job(images, **given), restart, lambda _: None)


def test_a_changed_setting_is_refused_and_restart_drops_the_job(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert len(plan(images, out, shard_size=2).shards) == 2
    assert plan(images, out, shard_size=2).size_of(1) == 1
    (out / "mine.txt").write_text("not of the job")
    (out / "part-00000.parquet").write_bytes(b"old")
    with pytest.raises(InvalidOption, match="shard_size was 2 when the job began and is 3 now"):
        plan(images, out, shard_size=3)
    assert len(plan(images, out, restart=True, shard_size=3).shards) == 1
    assert sorted(file.name for file in out.iterdir()) == ["_job", "mine.txt"]


def test_a_job_of_another_length_is_another_job(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = plan(images, out, options={"max_words": 9})
    assert made.settings.caption_options().max_words == 9
    assert plan(images, out, options={"max_words": 9}).settings == made.settings
    with pytest.raises(InvalidOption, match=r"options was \{'max_words': 9\} when the job began and is \{\} now"):
        plan(images, out)


def test_a_job_whose_words_were_cut_behind_the_captioner_does_not_go_on(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    plan(images, out)
    file = out / "_job" / "job.json"
    stored = json.loads(file.read_text())
    stored["settings"]["cut"] = None
    file.write_text(json.dumps(stored))
    with pytest.raises(InvalidOption, match="of another version of this job; use --restart"):
        plan(images, out)


def test_restart_keeps_the_lock_of_its_own_run(images: Path, tmp_path: Path) -> None:
    """It was removed with the job, and ten seconds later the run believed that another one had taken over."""
    plan(images, tmp_path / "out")
    lock = state.Lock(Folder(str(tmp_path / "out")))
    lock.acquire()
    plan(images, tmp_path / "out", restart=True)
    lock._beaten = -1e9
    lock.beat()


def test_a_plan_that_was_cut_off_is_made_again(images: Path, tmp_path: Path) -> None:
    plan(images, tmp_path / "out")
    (tmp_path / "out" / "_job" / "job.json").unlink()
    (images / "3.png").write_bytes((images / "0.png").read_bytes())
    assert plan(images, tmp_path / "out").inputs == 4


def test_output_of_something_else_is_not_touched(images: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-00000.parquet").write_bytes(b"precious")
    with pytest.raises(InvalidOption, match="no job that they belong to"):
        plan(images, tmp_path / "out")


def test_an_empty_source_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(b"")
    with pytest.raises(InvalidOption, match=r"There are no images in .*it has 1 \.tar"):
        plan(tmp_path / "in", tmp_path / "out")


def test_skip_existing_leaves_out_what_has_a_sidecar(images: Path) -> None:
    (images / "1.txt").write_text("a caption")
    made = plan(images, images, sink="sidecar", skip_existing=True)
    assert (made.inputs, made.existing) == (2, 1)


def test_journal_gives_back_rows_of_unfinished_shards_and_forgets_the_others(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    journal = state.Journal(folder)
    journal.add(0, 1, {"caption": "a"})
    journal.add(1, 0, {"caption": "b"})
    journal.flush()
    journal.add(1, 2, {"caption": "c"})
    journal.flush()
    journal.add(1, 3, {"caption": "lost"})
    assert state.Journal(folder).read(set()) == {
        0: {1: {"caption": "a"}},
        1: {0: {"caption": "b"}, 2: {"caption": "c"}},
    }
    assert state.Journal(folder).read({0}) == {1: {0: {"caption": "b"}, 2: {"caption": "c"}}}
    assert state.Journal(folder).read({0, 1}) == {}
    assert folder.names("_job/open") == []


def test_two_runs_of_one_job_are_kept_apart(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    first = state.Lock(folder)
    first.acquire()
    with pytest.raises(InvalidOption, match=f"process {os.getpid()}"):
        state.Lock(folder).acquire()
    first.release()
    state.Lock(folder).acquire()


def test_the_lock_of_a_killed_run_is_taken_over_at_once(tmp_path: Path) -> None:
    code = f"from serve_app.batch import state, folder; state.Lock(folder.Folder({str(tmp_path)!r})).acquire()"
    subprocess.run([sys.executable, "-c", code], check=True)
    lock = state.Lock(Folder(str(tmp_path)))
    lock.acquire()
    stolen = json.loads((tmp_path / "_job" / "lock.json").read_text())
    (tmp_path / "_job" / "lock.json").write_text(json.dumps({**stolen, "token": "another"}))
    lock._beaten = -1e9
    with pytest.raises(InvalidOption, match="taken over"):
        lock.beat()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))

    def cut_off() -> None:
        with folder.writer("a/b.bin") as output:
            output.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        cut_off()
    assert list((tmp_path / "a").iterdir()) == []
    folder.write("a/b.bin", b"whole")
    assert (folder.read("a/b.bin"), folder.names("a")) == (b"whole", ["b.bin"])


def test_a_mark_counts_what_the_summary_and_the_report_show() -> None:
    settings = job(Path("/x"), full=True)
    item = Input("p", "n", b"f")
    good = {**rows.captioned(item, BODY, "d", settings), "reused": 1}
    mark = mark_of([good, rows.failed(item, "not_found", "There is no such file.", settings)])
    assert (mark.captioned, mark.reused, mark.reasons) == (1, 1, {"not_found": 1})
    assert (mark.words, mark.scores) == ({"5": 1}, {"0.9": 1})
    assert sinks.part_name("csv", 7) == "part-00007.csv"


def test_a_bucket_serves_as_well_as_a_directory(images: Path) -> None:
    """Storage that is not local has no rename and no fsync; fsspec's own memory storage stands for it."""
    for file in images.iterdir():
        Folder("memory://in").write(file.name, file.read_bytes())
    settings = settings_of("memory://in", "memory://out", {"sink": "jsonl", "shard_size": 2})[0]
    folder = Folder("memory://out")
    assert len(planned(folder, settings, False, lambda _: None).shards) == 2
    for shard in range(2):
        inputs = index.load(folder, shard)
        assert all(isinstance(data, bytes) for data in read_all(inputs, settings))
        found = [rows.captioned(item, BODY, "d", settings) for item in inputs]
        finish(folder, shard, found, settings)
    lines = [json.loads(line) for name in state.parts(folder) for line in folder.read(name).splitlines()]
    assert [line["path"] for line in lines] == [f"memory://in/{number}.png" for number in range(3)]
    assert state.done_shards(folder) == [0, 1]
    state.clear(folder)
    assert state.load_plan(folder) is None
    assert state.parts(folder) == state.done_shards(folder) == []
