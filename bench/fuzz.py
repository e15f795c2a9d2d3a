"""Broken lists, tables and tars through the batch job's readers: `python -m bench.fuzz --files 100000`.

Each file is a good one with some bytes changed. Each row must have an image or an error, or the file is refused with
one sentence; anything else is printed and makes the exit code 1. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tarfile
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from serve_app.batch import sources
from serve_app.batch.command import settings_of
from serve_app.batch.intake import read_all
from serve_app.errors import InvalidOption

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)
MOST_READ = 10
"""Rows of a file whose images are read, too."""


def seeds() -> dict[str, bytes]:
    """A good file of each kind, by suffix."""
    table = pa.table({"image": [PIXEL, None, PIXEL], "file": ["a.png", "b.png", "é.png"], "n": [1, 2, 3]})
    parquet, arrow, tar = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet)
    with pa.ipc.new_stream(arrow, table.schema) as writer:
        writer.write_table(table)
    with tarfile.open(fileobj=tar, mode="w") as out:
        for name in ("a.png", "b/é.png", "c.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(PIXEL)
            out.addfile(member, io.BytesIO(PIXEL))
    return {
        ".parquet": parquet.getvalue(),
        ".arrow": arrow.getvalue(),
        ".tar": tar.getvalue(),
        ".csv": 'file,text\na.png,"b\nc"\n"d ""e"".png",f\né.png,\n'.encode(),
        ".tsv": 'file\ttext\na.png\t"b\nc.png\td\n'.encode("utf-16"),
        ".jsonl": b'{"file": "a.png", "text": ["b"]}\n{"file": "\\u00e9.png"}\n',
        ".txt": "a.png\nhttp://127.0.0.1:9/é.png\n../b.png\n".encode(),
    }


def broken(seed: bytes, chance: random.Random) -> bytes:
    data = bytearray(seed)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(data) + 1)
        cut, new = chance.choice((0, 1, 1, 2, 8, 64)), chance.choice((0, 1, 1, 4, 30))
        data[place : place + cut] = chance.randbytes(new)
    return bytes(data)


def outcome(file: Path) -> str:
    """What became of the file: "rows" or "refused". Raises what no reader may raise."""
    settings = settings_of(str(file), "/nowhere", {})[0]
    try:
        found = list(sources.inputs(settings, sources.Found()))
    except InvalidOption as error:
        error.message.encode()
        if "\n" in error.message:
            raise ValueError("the error has several lines") from error
        return "refused"
    for item in found:
        json.dumps([item.path, item.error], ensure_ascii=False).encode()
    local = [item for item in found if b"://" not in item.file][:MOST_READ]
    if len(list(read_all(local, settings))) != len(local):
        raise ValueError("a row is lost")
    return "rows"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance, counts, good = random.Random(args.seed), Counter[str](), seeds()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.files):
            suffix = [*good][number % len(good)]
            file = Path(folder) / f"t{suffix}"
            file.write_bytes(data := broken(good[suffix], chance))
            try:
                counts[f"{suffix} {outcome(file)}"] += 1
            except Exception:
                counts[f"{suffix} failed"] += 1
                kept = Path(tempfile.gettempdir()) / f"fuzz-{args.seed}-{number}{suffix}"
                kept.write_bytes(data)
                print(f"{kept}\n{traceback.format_exc()}", file=sys.stderr)
    print(json.dumps(dict(sorted(counts.items()))))
    return 1 if any(word.endswith("failed") for word in counts) else 0


if __name__ == "__main__":
    sys.exit(main())
