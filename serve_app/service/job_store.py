"""Where captions that outlive their request are kept: Redis, or a directory that all ingress replicas see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import redis


class JobStore(Protocol):
    """States and inputs by id, for `kept_s` seconds, and leases.

    Methods block for seconds at most, may be called by any thread, and raise `OSError` if the storage fails.
    """

    def put(self, job_id: str, state: bytes, data: bytes | None = None) -> None:
        """Writes the state, and the input if there is one."""
        ...

    def state(self, job_id: str) -> bytes | None: ...

    def data(self, job_id: str) -> bytes | None: ...

    def drop_data(self, job_id: str) -> None:
        """The input is not needed any more."""
        ...

    def lease(self, job_id: str, owner: str, seconds: float) -> bool:
        """Takes or renews a lease; False while it is another owner's."""
        ...

    def cancel(self, job_id: str) -> None:
        """Marks the job, whatever else is written to its state."""
        ...

    def is_cancelled(self, job_id: str) -> bool: ...

    def close(self, job_id: str) -> None:
        """The job has ended: its input and lease go, its state and mark stay."""
        ...

    def open_jobs(self) -> list[str]:
        """Ids of the jobs that have not ended, the oldest first."""
        ...


def store_of(place: str, kept_s: float) -> JobStore:
    """`place` is a URL of Redis or a directory."""
    return RedisStore(place, kept_s) if place.startswith(("redis://", "rediss://")) else DirectoryStore(place, kept_s)


class RedisStore:
    def __init__(self, url: str, kept_s: float) -> None:
        self._redis: Any = redis.from_url(url, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._kept_ms = int(kept_s * 1000)

    def put(self, job_id: str, state: bytes, data: bytes | None = None) -> None:
        with _as_os_error():
            if data is not None:
                self._redis.set(_key("input", job_id), data, px=self._kept_ms)
            self._redis.set(_key("state", job_id), state, px=self._kept_ms)
            if data is not None:
                self._redis.zadd(_key("open"), {job_id: time.time()})

    def state(self, job_id: str) -> bytes | None:
        return self._get("state", job_id)

    def data(self, job_id: str) -> bytes | None:
        return self._get("input", job_id)

    def drop_data(self, job_id: str) -> None:
        with _as_os_error():
            self._redis.delete(_key("input", job_id))

    def cancel(self, job_id: str) -> None:
        with _as_os_error():
            self._redis.set(_key("cancelled", job_id), b"1", px=self._kept_ms)

    def is_cancelled(self, job_id: str) -> bool:
        return self._get("cancelled", job_id) is not None

    def lease(self, job_id: str, owner: str, seconds: float) -> bool:
        name, until_ms = _key("lease", job_id), int(seconds * 1000)
        with _as_os_error():
            if self._redis.set(name, owner, px=until_ms, nx=True):
                return True
            if self._redis.get(name) != owner.encode():
                return False
            self._redis.pexpire(name, until_ms)
            return True

    def close(self, job_id: str) -> None:
        with _as_os_error():
            self._redis.zrem(_key("open"), job_id)
            self._redis.delete(_key("input", job_id), _key("lease", job_id))

    def open_jobs(self) -> list[str]:
        oldest = time.time() - self._kept_ms / 1000
        with _as_os_error():
            self._redis.zremrangebyscore(_key("open"), "-inf", oldest)
            return [name.decode() for name in self._redis.zrange(_key("open"), 0, -1)]

    def _get(self, kind: str, job_id: str) -> bytes | None:
        with _as_os_error():
            found: bytes | None = self._redis.get(_key(kind, job_id))
        return found


def _key(*parts: str) -> str:
    return ":".join(("caption-serve", "job", *parts))


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise OSError(f"Redis: {error}") from error


class DirectoryStore:
    """Files in a directory of its own, `ID.SUFFIX`: `json` has a state, `input` an input, `open` is there until the job
    has ended, `cancelled` marks it, `lease` names an owner and ends at the file's time."""

    def __init__(self, directory: str, kept_s: float) -> None:
        self._directory = Path(directory) / "caption-serve-jobs"
        self._kept_s = kept_s

    def put(self, job_id: str, state: bytes, data: bytes | None = None) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        if data is not None:
            self._write(f"{job_id}.input", data)
        self._write(f"{job_id}.json", state)
        if data is not None:
            self._write(f"{job_id}.open", b"")

    def state(self, job_id: str) -> bytes | None:
        return self._read(f"{job_id}.json")

    def data(self, job_id: str) -> bytes | None:
        return self._read(f"{job_id}.input")

    def drop_data(self, job_id: str) -> None:
        self._remove(job_id, "input")

    def cancel(self, job_id: str) -> None:
        self._write(f"{job_id}.cancelled", b"")

    def is_cancelled(self, job_id: str) -> bool:
        return (self._directory / f"{job_id}.cancelled").exists()

    def lease(self, job_id: str, owner: str, seconds: float) -> bool:
        with (self._directory / f"{job_id}.lease").open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            found, ends = file.read(), os.fstat(file.fileno()).st_mtime
            if found not in ("", owner) and time.time() < ends:
                return False
            if found != owner:
                file.truncate(0)
                file.write(owner)
                file.flush()
            os.utime(file.fileno(), (time.time(), time.time() + seconds))
            return True

    def close(self, job_id: str) -> None:
        self._remove(job_id, "open", "input", "lease")

    def open_jobs(self) -> list[str]:
        """Removes what is too old on the way."""
        found = []
        oldest = time.time() - self._kept_s
        for file in self._directory.iterdir() if self._directory.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                written = file.stat().st_mtime
                if written < oldest:
                    file.unlink()
                elif file.suffix == ".open":
                    found.append((written, file.stem))
        return [job_id for _, job_id in sorted(found)]

    def _write(self, name: str, data: bytes) -> None:
        fresh = self._directory / f"{name}.{uuid.uuid4().hex}.new"
        fresh.write_bytes(data)
        os.replace(fresh, self._directory / name)

    def _read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self._directory / name).read_bytes()
        return None

    def _remove(self, job_id: str, *suffixes: str) -> None:
        for suffix in suffixes:
            (self._directory / f"{job_id}.{suffix}").unlink(missing_ok=True)
