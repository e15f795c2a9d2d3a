"""The stored list of a job's inputs, in parts of one shard each; made once, before anything is captioned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from serve_app.batch.folder import Folder
from serve_app.batch.inputs import SCHEMA, Input, inputs_of

FOLDER = "_job/inputs"
SHARDS_OF_FILE = 64
"""Each shard is a row group, so that it is read alone."""


def store(folder: Folder, inputs: Iterable[Input], shard_size: int, first: int = 0) -> tuple[int, int]:
    """Writes the index and returns (inputs, shards). Holds one shard at a time.

    `first` is the number of the first shard, of those that `next_first` returns.
    """
    total = shards = 0
    for number, file in enumerate(_files(_shards(inputs, shard_size)), start=first // SHARDS_OF_FILE):
        with folder.writer(_name(number)) as output, pq.ParquetWriter(output, SCHEMA) as writer:
            for shard in file:
                writer.write_table(pa.Table.from_pylist([item.row_of() for item in shard], SCHEMA))
                total += len(shard)
                shards += 1
    return total, shards


def next_first(end: int) -> int:
    """The number of a first shard, at least `end`: each part of the index begins with a file of its own."""
    return -(-end // SHARDS_OF_FILE) * SHARDS_OF_FILE


def load(folder: Folder, shard: int) -> list[Input]:
    """The inputs of one shard."""
    number, group = divmod(shard, SHARDS_OF_FILE)
    with folder.open(_name(number)) as stream:
        return list(inputs_of(pq.ParquetFile(stream).read_row_group(group)))


def _shards(inputs: Iterable[Input], size: int) -> Iterator[list[Input]]:
    iterator = iter(inputs)
    while shard := [item for _, item in zip(range(size), iterator, strict=False)]:
        yield shard


def _files(shards: Iterator[list[Input]]) -> Iterator[Iterator[list[Input]]]:
    """The shards of each file, to be used up before the next."""
    for first in shards:

        def of_file(first: list[Input] = first) -> Iterator[list[Input]]:
            yield first
            for _ in range(SHARDS_OF_FILE - 1):
                if (following := next(shards, None)) is None:
                    return
                yield following

        yield of_file()


def _name(number: int) -> str:
    return f"{FOLDER}/{number:05d}.parquet"
