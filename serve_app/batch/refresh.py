"""`--refresh-outdated`: shards with rows that an older pipeline or model made are opened again.

A shard is opened in this order: its rows that stay are in the journal, its marker is set aside, its marker goes. Its
output stays as it is until the new one replaces it; a kill between any two steps leaves a job that can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from serve_app.batch import index, rows, sinks, state
from serve_app.batch.folder import Folder
from serve_app.batch.marks import Mark
from serve_app.batch.rows import Row
from serve_app.batch.settings import JobSettings
from serve_app.errors import InvalidOption


def reopen(folder: Folder, settings: JobSettings, current: str, tell: Callable[[str], None]) -> None:
    """Opens the finished shards that have captions with another fingerprint than `current`.

    Texts that a person wrote stay: those that were kept, and sidecars that are not as the job wrote them.
    Raises `InvalidOption` if the output of such a shard is gone.
    """
    journal, opened = state.Journal(folder), 0
    journal.compact({*state.done_shards(folder)})
    for shard, mark in state.done_marks(folder):
        outdated = _outdated(mark, current)
        if not outdated:
            continue
        found = rows_of(folder, shard, mark, settings)
        outdated -= sinks.edited(folder, index.load(folder, shard), found, settings)
        if not outdated:
            continue
        for place, row in enumerate(found):
            if place not in outdated:
                journal.add(shard, place, row)
        journal.flush()
        state.set_aside(folder, shard)
        opened += len(outdated)
    tell(f"{opened:,} captions are made again.")


def _outdated(mark: Mark, current: str) -> set[int]:
    """Places of captions that the job made, and not as they would be made now."""
    return {place for place, made_by in enumerate(mark.made_by()) if made_by is not None and made_by != current}


def rows_of(folder: Folder, shard: int, mark: Mark, settings: JobSettings) -> Sequence[Row]:
    """The rows of a finished shard as its output has them."""
    inputs = index.load(folder, shard)
    failed = {
        int(place): rows.failed(inputs[int(place)], reason, reason, settings) for place, reason in mark.failed.items()
    }
    try:
        found = sinks.read(folder, shard, settings, failed)
    except FileNotFoundError as error:
        raise InvalidOption(f"--refresh-outdated: {folder.url} lacks the rows of shard {shard}.") from error
    if [row["path"] for row in found] != [item.path for item in inputs]:
        raise InvalidOption(f"--refresh-outdated: the rows of shard {shard} are not those that this job wrote.")
    return found
