"""Tables and lists as people write them: each row is an image or says what is wrong, and none is lost."""

from __future__ import annotations

import base64
import codecs
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.batch import sources
from serve_app.batch.command import settings_of
from serve_app.batch.inputs import Input
from serve_app.batch.intake import read_all
from serve_app.errors import InvalidOption
from tests.pictures import tiny as image


def listed(source: Path, **given: Any) -> list[Input]:
    return list(sources.inputs(settings_of(str(source), "/nowhere", given)[0], sources.Found()))


def read(source: Path, **given: Any) -> list[Any]:
    return list(read_all(listed(source, **given), settings_of(str(source), "/nowhere", given)[0]))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(image(number))
    return tmp_path


def test_a_quotation_mark_in_a_tsv_is_a_character(pictures: Path) -> None:
    """A text that began with one swallowed the rows after it."""
    (pictures / "t.tsv").write_text('file\ttext\n0.png\ta\n1.png\t"open\n2.png\tb\n3.png\t"c"\n')
    assert read(pictures / "t.tsv", keep=("text",)) == [image(number) for number in range(4)]
    assert json.loads(listed(pictures / "t.tsv", keep=("text",))[1].kept) == {"text": '"open'}


def test_an_open_quotation_mark_in_a_csv_costs_its_own_row_only(pictures: Path) -> None:
    (pictures / "t.csv").write_text('file,text\n0.png,"a\nb"\n1.png,"open\n2.png,b\n3.png,"c ""d"""\n')
    found = read(pictures / "t.csv", keep=("text",))
    assert found[0] == image(0)
    assert found[1] == ("unreadable", "A quotation mark is not closed, or text follows a closed one.")
    assert found[2:] == [image(2), image(3)]


@pytest.mark.parametrize("far", [0, 30_000])
def test_faults_in_a_csv_are_rows_however_far_down(pictures: Path, far: int) -> None:
    """Beyond the first megabyte they were tracebacks, as was one large cell."""
    rows = b"0.png,a text of some length that fills the file\n" * far
    rows += b"1.png,a,b\n\xe9.png,x\n2.png," + b"x" * 3_000_000 + b"\n\n3.png,caf\xe9\n"
    (pictures / "t.csv").write_bytes(b"file,text\n" + rows)
    found = listed(pictures / "t.csv", keep=("text",))[far:]
    assert found[0].error == "unreadable: The row has 3 cells and the header 2."
    assert (found[1].path, found[1].file) == ("\\xe9.png", os.fsencode(pictures) + b"/\xe9.png")
    assert json.loads(found[3].kept) == {"text": "caf\\xe9"}
    job = settings_of(str(pictures / "t.csv"), "/nowhere", {})[0]
    assert [isinstance(data, bytes) for data in read_all(found, job)] == [False, False, True, True]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".txt", ".jsonl"])
def test_byte_order_marks_are_known(tmp_path: Path, encoding: str, suffix: str) -> None:
    (tmp_path / "é.png").write_bytes(image(1))
    text = {".csv": "file\né.png\n", ".txt": "é.png\n", ".jsonl": '{"file": "é.png"}\n'}[suffix]
    (tmp_path / f"t{suffix}").write_bytes(text.encode(encoding))
    assert read(tmp_path / f"t{suffix}") == [image(1)]


@pytest.mark.parametrize(
    "data", ["file\na.png\n".encode("utf-16-le"), codecs.BOM_UTF16_LE + b"f", codecs.BOM_UTF32_LE + b"\xff" * 8]
)
def test_text_in_an_unknown_encoding_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InvalidOption):
        listed(tmp_path / "t.csv")


def test_json_lines_and_their_faults_are_rows(pictures: Path) -> None:
    lines = ['{"file_name": "0.png", "text": "a"}', "{", "[]", '{"file_name": 7}', "", '{"text": "b"}']
    (pictures / "metadata.jsonl").write_text("\n".join([*lines, '{"file_name": "\\ud800"}']))
    found = read(pictures / "metadata.jsonl", keep=("text",))
    assert found[0] == image(0)
    assert [reason for reason, _ in found[1:]] == ["unreadable", "unreadable", "invalid_name", "empty", "invalid_name"]


@pytest.mark.parametrize(
    "kind", ["binary", "large_binary", "binary_view", "fixed", "dictionary", "struct", "base64", "uri"]
)
def test_every_shape_of_bytes_is_read(tmp_path: Path, kind: str) -> None:
    cells: list[Any] = [image(0), image(0)]
    text = base64.b64encode(image(0)).decode()
    array: pa.Array = {
        "binary": lambda: pa.array(cells, pa.binary()),
        "large_binary": lambda: pa.array(cells, pa.large_binary()),
        "binary_view": lambda: pa.array(cells, pa.binary_view()),
        "fixed": lambda: pa.array(cells, pa.binary(len(cells[0]))),
        "dictionary": lambda: pa.array(cells, pa.binary()).dictionary_encode(),
        "struct": lambda: pa.array([{"bytes": cell, "path": None} for cell in cells]),
        "base64": lambda: pa.array([text, text]),
        "uri": lambda: pa.array([f"data:image/png;base64,{text}"] * 2),
    }[kind]()
    for suffix in (".parquet", ".arrow"):
        file = tmp_path / f"t{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"image": array}), file)
        else:
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, pa.table({"image": array}).schema) as out:
                out.write_table(pa.table({"image": array}))
        assert read(file) == cells
        assert [item.path for item in listed(file)] == [f"{file}#0", f"{file}#1"]


def test_a_path_without_bytes_is_read(pictures: Path) -> None:
    """`datasets` writes {bytes: None, path: …} for files that it does not embed."""
    cells = [{"bytes": None, "path": "1.png"}, {"bytes": image(0), "path": "x"}, {"bytes": None, "path": None}, None]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), pictures / "t.parquet")
    assert read(pictures / "t.parquet") == [image(1), image(0), *[("empty", "The cell is empty.")] * 2]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[b"x"]]),
        pa.array([[{"bytes": b"x", "path": "y"}]]),
        pa.array([[1, 2]]),
        pa.array([1]),
        pa.array([{"width": 3}]),
    ],
)
def test_a_column_without_one_image_a_row_is_refused_with_its_type(tmp_path: Path, array: pa.Array) -> None:
    """The repr of a list's bytes was taken for a file's name."""
    pq.write_table(pa.table({"image": array}), tmp_path / "t.parquet")
    with pytest.raises(InvalidOption, match="column 'image' holds"):
        listed(tmp_path / "t.parquet")


def test_a_column_that_cannot_be_used_gives_way_to_one_that_can(pictures: Path) -> None:
    pq.write_table(pa.table({"image": [7], "file_name": ["0.png"]}), pictures / "t.parquet")
    assert read(pictures / "t.parquet") == [image(0)]


def test_kept_bytes_are_refused(pictures: Path) -> None:
    pq.write_table(pa.table({"file": ["0.png"], "raw": [b"x"]}), pictures / "t.parquet")
    with pytest.raises(InvalidOption, match="'raw' holds bytes"):
        listed(pictures / "t.parquet", keep=("raw",))


def test_text_in_parquet_that_is_no_utf8_is_a_name(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(image(1))
    names = pa.array([b"caf\xe9.png"], pa.binary())
    text = pa.StringArray.from_buffers(1, *names.buffers()[1:])
    pq.write_table(pa.table({"file": text}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet") == [image(1)]


def test_system_files_are_left_alone_and_jpeg_is_jpeg(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPE", "._a.jfif", "__MACOSX/c.png", "@eaDir/d.png", "thumbs/e.png", "f.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(image(0))
    seen = sources.Found()
    job = settings_of(str(tmp_path), "/nowhere", {"exclude": ("thumbs/*",)})[0]
    assert [item.name for item in sources.inputs(job, seen)] == ["a.jfif", "b.JPE"]
    assert seen.other == {"._ files": 1, "folder __MACOSX": 1, "folder @eaDir": 1, "excluded": 1, ".heic": 1}


def test_a_compressed_tar_says_so(tmp_path: Path) -> None:
    (tmp_path / "t.tar.gz").write_bytes(b"\x1f\x8b" + b"\0" * 100)
    with pytest.raises(InvalidOption, match="compressed"):
        listed(tmp_path / "t.tar.gz")


def seeds(folder: Path) -> list[bytes]:
    table = pa.table({"image": [image(0), None], "file": ["a.png", "b.png"], "n": [1, 2]})
    pq.write_table(table, folder / "seed.parquet")
    with pa.OSFile(str(folder / "seed.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)
    texts = [b'file,text\na.png,"b\nc"\nd.png,e\n', b"file\ttext\na.png\tb\n", b'{"file": "a.png"}\n{"file": 1}\n']
    return [(folder / "seed.parquet").read_bytes(), (folder / "seed.arrow").read_bytes(), *texts]


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_broken_tables_are_rows_with_errors_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    kinds = dict(zip((".parquet", ".arrow", ".csv", ".tsv", ".jsonl"), seeds(folder), strict=True))
    suffix = data.draw(st.sampled_from([*kinds, ".tar", ".txt"]))
    broken = bytearray(kinds.get(suffix, kinds[".csv"]))
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(broken)))
        cut = data.draw(st.integers(0, 20))
        broken[place : place + cut] = data.draw(st.binary(max_size=20))
    (folder / f"t{suffix}").write_bytes(bytes(broken))
    try:
        found = listed(folder / f"t{suffix}")
        for item in found:
            item.path.encode()
        read_all(found[:20], settings_of(str(folder / f"t{suffix}"), "/nowhere", {})[0])
    except InvalidOption as error:
        error.message.encode()
        assert "\n" not in error.message


def test_broken_offsets_of_a_cell_end_no_process(tmp_path: Path) -> None:
    """pyarrow aborts the process when it is asked for such a cell."""
    offsets, data = pa.array([8, 0, 8], pa.int32()).buffers()[1], pa.py_buffer(b"12345678")
    broken = pa.Array.from_buffers(pa.binary(), 2, [None, offsets, data])
    table = pa.table({"n": [1, 2], "image": broken})
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)
    code = (
        "import sys; from serve_app.batch import sources; from serve_app.batch.command import settings_of; "
        "from serve_app.batch.intake import read_all; job = settings_of(sys.argv[1], '/nowhere', {})[0]; "
        "print(*(data[0] for data in read_all(list(sources.inputs(job, sources.Found())), job)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "t.arrow")], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["unreadable", "unreadable"])
