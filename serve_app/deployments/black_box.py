"""Whether a replica that was lost had crashed or run out of memory, and was not killed from outside or with its node.

Ray says of all of them that the process has ended. So every replica leaves a file on its node. Python writes into it if
the process dies of a signal of its own (a segmentation fault, an abort), and it says how many processes the kernel had
killed for want of memory a moment ago. Whoever lost the replica reads it there.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import getpass
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

READ_S = 15.0
"""How long a node may take to say what it knows."""
KEPT_S = 86_400.0
_CRASHED = b"Fatal Python error"
_COUNT = 20
"""Digits of the number at the beginning of a file."""


class BlackBox:
    """The file of this process's replica. It can only be removed by the replica, so that a lost one leaves it."""

    def __init__(self) -> None:
        directory = _directory()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in directory.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > KEPT_S:
                    old.unlink()
        self._path = directory / serve.get_replica_context().replica_id.unique_id
        self._file = self._path.open("w+b", buffering=0)
        self.update()
        self._file.seek(0, os.SEEK_END)
        faulthandler.enable(self._file, all_threads=False)

    def update(self) -> None:
        """Notes how many processes were killed for want of memory until now."""
        os.pwrite(self._file.fileno(), b"%0*d\n" % (_COUNT, _killed_for_memory()), 0)

    def remove(self) -> None:
        faulthandler.disable()
        self._file.close()
        self._path.unlink(missing_ok=True)


async def crashed(replicas: Sequence[tuple[str, str]]) -> bool:
    """Whether all of these replicas (id and node) are known to have crashed or run out of memory."""
    found = await asyncio.gather(*(_found(replica, node) for replica, node in replicas))
    return all(found)


async def _found(replica: str, node: str) -> bool:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    asked: Any = _read.options(scheduling_strategy=strategy).remote(replica)
    try:
        return bool(await asyncio.wait_for(asyncio.wrap_future(asked.future()), READ_S))
    except (TimeoutError, ray.exceptions.RayError):  # the node is lost too, or has no room
        return False


@ray.remote(num_cpus=0, max_retries=0)
def _read(replica: str) -> bool:
    """What the replica's node knows."""
    try:
        text = (_directory() / replica).read_bytes()
    except OSError:
        return False
    return _CRASHED in text or _killed_for_memory() > int(text[:_COUNT])


def _directory() -> Path:
    return Path(tempfile.gettempdir()) / f"caption-serve-{getpass.getuser()}" / "replicas"


def _killed_for_memory() -> int:
    """Processes of this container, or else machine, that the kernel has killed for want of memory."""
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with contextlib.suppress(OSError):
            for line in Path(file).read_text(encoding="ascii").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
