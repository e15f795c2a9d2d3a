"""Sources of the batch job: what they list, in which order, and that each image can be read again from the index."""

from __future__ import annotations

import csv
import io
import itertools
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from serve_app.batch import index, sources
from serve_app.batch.command import settings_of
from serve_app.batch.folder import Folder
from serve_app.batch.inputs import Input
from serve_app.batch.intake import Reader, read_all, unpacked_picture
from serve_app.batch.settings import JobSettings
from serve_app.errors import InvalidOption
from serve_app.types import Size
from tests.pictures import tiny as image


def job(source: object, out: object = "/nowhere", **given: Any) -> JobSettings:
    return settings_of(str(source), str(out), given)[0]


def listed(settings: JobSettings) -> list[Input]:
    return list(sources.inputs(settings, sources.Found()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images in two folders, one file of another kind."""
    (tmp_path / "in" / "b").mkdir(parents=True)
    for number, name in enumerate(("z.png", "a.JPG", "b/c.png")):
        (tmp_path / "in" / name).write_bytes(image(number))
    (tmp_path / "in" / "notes.md").write_text("no image")
    return tmp_path / "in"


def check_bytes(settings: JobSettings, wanted: list[bytes]) -> list[Input]:
    found = listed(settings)
    assert list(read_all(found, settings)) == wanted
    return found


def test_a_directory_is_listed_in_order_and_other_files_are_counted(folder: Path) -> None:
    seen = sources.Found()
    found = list(sources.inputs(job(folder), seen))
    assert [item.name for item in found] == ["a.JPG", "b/c.png", "z.png"]
    assert [item.path for item in found] == [f"{folder}/{item.name}" for item in found]
    assert seen.other == {".md": 1}
    check_bytes(job(folder), [image(1), image(2), image(0)])


def test_links_in_a_loop_end_and_links_to_images_count(folder: Path) -> None:
    (folder / "b" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "b" / "linked.png").symlink_to(folder / "z.png")
    (folder / "b" / "nowhere.png").symlink_to(folder / "gone")
    found = listed(job(folder))
    assert [item.name for item in found] == ["a.JPG", "b/c.png", "b/linked.png", "b/nowhere.png", "z.png"]
    assert list(read_all(found, job(folder)))[3] == ("not_found", "There is no such file.")


@pytest.mark.parametrize(
    "name", ["with space.png", "zebra 🦓.png", "x" * 250 + ".png", "new\nline.png", "a'\"b.png", "100%41#?.png"]
)
def test_odd_names_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(image(1))
    (item,) = check_bytes(job(tmp_path), [image(1)])
    assert item.name == name


def test_a_name_that_is_no_utf8_is_read_and_shown(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(image(1))
    (item,) = check_bytes(job(tmp_path), [image(1)])
    assert item.path == f"{tmp_path}/caf\\xe9.png"
    assert os.fsencode(item.name) == b"caf\xe9.png"


def test_a_glob_and_a_single_file(folder: Path) -> None:
    assert [item.name for item in check_bytes(job(f"{folder}/**/*.png"), [image(2), image(0)])]
    check_bytes(job(folder / "z.png"), [image(0)])


def test_a_list_names_paths_from_its_own_folder(folder: Path) -> None:
    (folder / "list.txt").write_text(f"z.png\n\nb/c.png\n{folder}/a.JPG\nmissing.png\n")
    found = listed(job(folder / "list.txt"))
    assert [item.path for item in found] == ["z.png", "b/c.png", f"{folder}/a.JPG", "missing.png"]
    assert list(read_all(found, job(folder / "list.txt"))) == [
        image(0), image(2), image(1), ("not_found", "There is no such file.")
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".arrow", ".feather"])
def test_a_table_of_paths_keeps_columns_as_they_are(folder: Path, suffix: str) -> None:
    file = folder / f"table{suffix}"
    rows = [{"sku": "007", "file": "z.png"}, {"sku": "008", "file": "b/c.png"}, {"sku": "009", "file": ""}]
    write_table(file, pa.Table.from_pylist(rows))
    settings = job(file, keep=("sku",))
    found = listed(settings)
    assert [item.kept for item in found] == [f'{{"sku": "00{digit}"}}' for digit in "789"]
    assert list(read_all(found, settings)) == [image(0), image(2), ("empty", "The cell is empty.")]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("struct", [False, True])
def test_a_table_of_bytes_is_read_from_any_row(tmp_path: Path, suffix: str, struct: bool) -> None:
    """As the datasets library writes images, too: {bytes, path}."""
    cells = [image(number % 7) for number in range(700)]
    values: list[Any] = [{"bytes": cell, "path": "x"} for cell in cells] if struct else cells
    write_table(tmp_path / f"t{suffix}", pa.table({"id": range(700), "image": values}))
    settings = job(tmp_path / f"t{suffix}")
    found = listed(settings)
    assert [item.path for item in found[:2]] == [f"{tmp_path}/t{suffix}#0", f"{tmp_path}/t{suffix}#1"]
    some = [found[place] for place in (3, 299, 300, 301, 699)]
    assert list(read_all(some, settings)) == [cells[item.row] for item in some]


def write_table(file: Path, table: pa.Table) -> None:
    match file.suffix:
        case ".parquet":
            pq.write_table(table, file, row_group_size=300)
        case ".arrow":
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=300)
        case ".feather":
            pyarrow.feather.write_feather(table, file)
        case suffix:
            with file.open("w", newline="") as text:
                writer = csv.DictWriter(text, table.column_names, delimiter="\t" if suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(table.to_pylist())


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", pa.table({"where": ["a.png"]}))
    with pytest.raises(InvalidOption, match="Name it with --column; it has where"):
        listed(job(tmp_path / "t.csv"))
    with pytest.raises(InvalidOption, match="no column 'sku'"):
        listed(job(tmp_path / "t.csv", column="where", keep=("sku",)))


def test_tar_members_are_read_by_their_place(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for number in range(5):
            for suffix, data in ((".png", image(number)), (".txt", b"text")):
                member = tarfile.TarInfo(f"sample{number}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    found = check_bytes(job(tmp_path / "shard-*.tar"), [image(number) for number in range(5)])
    assert found[4].path == f"{tmp_path}/shard-0.tar#sample4.png"
    (tmp_path / "shard-0.tar").write_bytes((tmp_path / "shard-0.tar").read_bytes()[:2000])
    assert [bool(item.error) for item in listed(job(tmp_path / "shard-*.tar"))][-1]


@pytest.mark.parametrize("source", ["/nowhere", "/nowhere.txt", "/nowhere.csv", "/nowhere/*.tar", "bad://x"])
def test_a_source_that_is_not_there_is_one_sentence(source: str) -> None:
    with pytest.raises(InvalidOption):
        listed(job(source))


@pytest.mark.parametrize("count", [1, 9, 10, 11, 700])
def test_the_index_gives_back_each_shard(tmp_path: Path, count: int) -> None:
    items = [Input(str(number), f"{number}.png", b"x", row=number) for number in range(count)]
    assert index.store(Folder(str(tmp_path)), iter(items), 10) == (count, -(-count // 10))
    stored = [index.load(Folder(str(tmp_path)), shard) for shard in range(-(-count // 10))]
    assert list(itertools.chain(*stored)) == items


def test_the_reader_skips_what_has_its_row_and_tells_what_is_broken(folder: Path) -> None:
    (folder / "y.png").write_bytes(b"no image")
    settings = job(folder)
    out = Folder(str(folder / "out"))
    index.store(out, listed(settings), 100)
    reader = Reader(out, settings, (Size(8, 8), Size(4, 6)), 2, {0: frozenset({0})})
    batches = list(reader({"shard": [0]}))
    assert [place for batch in batches for place in batch["place"]] == [1, 2, 3]
    assert [reason for batch in batches for reason in batch["reason"]] == ["", "unsupported_image", ""]
    picture = unpacked_picture(batches[0]["image"][0])
    assert [len(picture[size].data) for size in (Size(8, 8), Size(4, 6))] == [8 * 8 * 3, 4 * 6 * 3]
    assert batches[0]["digest"][0] == picture[Size(8, 8)].digest != picture[Size(4, 6)].digest
