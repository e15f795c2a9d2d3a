"""Whether a replica that was lost had crashed or run out of memory, and was not killed from outside or with its node.

Ray says of all of them that the process has ended. So every replica leaves a file on its node. Python writes into it if
the process dies of a signal of its own (a segmentation fault, an abort), and it says how many processes the kernel had
killed for want of memory a moment ago. Whoever lost the replica reads it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger("ray.serve")

READ_S = 30.0
"""How long a node may take to say what it knows: a worker starts for it."""
KEPT_S = 86_400.0
MOST_TEXT = 4000
"""Bytes of a crash's trace that are told."""
_CRASHED = b"Fatal Python error"
_COUNT = 20
"""Digits of the number at the beginning of a file."""


class BlackBox:
    """The file of this process's replica. A replica that ends in peace removes it; a lost one leaves it.

    Without a place for it (no writable directory for temporary files) every loss counts as one from outside.
    """

    def __init__(self) -> None:
        self._path = _directory() / serve.get_replica_context().replica_id.unique_id
        self._file: FileIO | None = None
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check(self._path.parent)
            _remove_old(self._path.parent)
            self._file = FileIO(self._path, "w+")
        except OSError:
            logger.warning("crashes of this replica cannot be told from kills", exc_info=True)
            return
        self.update()
        self._file.seek(0, os.SEEK_END)
        faulthandler.enable(self._file, all_threads=False)

    def update(self) -> None:
        """Notes how many processes were killed for want of memory until now."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the disk is full
                os.pwrite(self._file.fileno(), b"%0*d\n" % (_COUNT, _killed_for_memory()), 0)

    def remove(self) -> None:
        if self._file is not None:
            faulthandler.disable()
            self._file.close()
            self._path.unlink(missing_ok=True)


async def crashed(replicas: Sequence[tuple[str, str]]) -> bool:
    """Whether all of these replicas (id and node) are known to have crashed or run out of memory."""
    found = await asyncio.gather(*(_found(replica, node) for replica, node in replicas))
    for (replica, _), cause in zip(replicas, found, strict=True):
        if cause:
            logger.error("replica %s was lost: %s", replica, cause)
    return all(found)


async def _found(replica: str, node: str) -> str:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    asked: Any = _read.options(scheduling_strategy=strategy).remote(replica)
    try:
        async with asyncio.timeout(READ_S):
            return str(await asyncio.wrap_future(asked.future()))
    except (TimeoutError, ray.exceptions.RayError):  # the node is lost too, or has no room
        return ""


@ray.remote(num_cpus=0, max_retries=0)
def _read(replica: str) -> str:
    """What the replica's node knows of its end; empty if it was no crash."""
    try:
        text = (_directory() / replica).read_bytes()
    except OSError:
        return ""
    if _CRASHED in text:
        return text[_COUNT : _COUNT + MOST_TEXT].decode(errors="replace").strip()
    if text[:_COUNT].isdigit() and _killed_for_memory() > int(text[:_COUNT]):
        return "The kernel killed a process for want of memory."
    return ""


def _check(directory: Path) -> None:
    """Raises `OSError` for a directory that somebody else has made, or made a link: others may write to its parent."""
    for each in (directory, directory.parent):
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(f"{each} is not this user's own directory")


def _remove_old(directory: Path) -> None:
    for old in directory.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > KEPT_S:
                old.unlink()


def _directory() -> Path:
    return Path(tempfile.gettempdir()) / f"caption-serve-{os.getuid()}" / "replicas"


def _killed_for_memory() -> int:
    """Processes of this container, or else machine, that the kernel has killed for want of memory."""
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with contextlib.suppress(OSError):
            for line in Path(file).read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
