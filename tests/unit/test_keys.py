"""API keys: the file, the guard, the limits of each key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.cli.keys import list_keys, make_key, revoke_key
from serve_app.errors import InvalidOption, QuotaExceeded
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, KeyStore
from serve_app.service.keys import Key, new_key
from serve_app.service.quota import CALLER, Caller, Quota
from serve_app.steps import ONLY
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, assert_problem, echo
from tests.unit.test_chat import URI, message

LAST_SECONDS = 5


@pytest.fixture(autouse=True)
def one_minute() -> None:
    """Limits count by the clock's minutes: at the end of one, a request of the last minute counted a row less."""
    left = 60 - time.time() % 60
    if left < LAST_SECONDS:
        time.sleep(left)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key_file(folder: Path, *names: str) -> tuple[Path, list[str]]:
    made = [new_key(name) for name in names]
    file = folder / "keys"
    file.write_text("# who may call\n\n" + "\n".join(line for _, line in made), encoding="utf-8")
    return file, [key for key, _ in made]


def named(keys: KeyStore, text: str) -> str | None:
    key = keys.check(text)
    return None if key is None else key.name


@asynccontextmanager
async def guarded(
    keys: KeyStore, limits: Limits | None = None, delay_s: float = 0.0, **more: Any
) -> AsyncIterator[httpx.AsyncClient]:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo, delay_s)), limits)
    transport = httpx.ASGITransport(create_app(service, keys=keys, **more), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    service.close()


def test_several_keys_are_told_apart_and_kept_hashed(tmp_path: Path) -> None:
    file, (first, second) = key_file(tmp_path, "alice", "bob")
    keys = KeyStore(str(file))
    assert (named(keys, first), named(keys, second)) == ("alice", "bob")
    assert keys.check(first[:-1]) is None
    assert keys.check("") is None
    assert first not in file.read_text(encoding="utf-8")


def test_environment_has_keys_too() -> None:
    (one, line), (two, other) = new_key("a"), new_key("b")
    keys = KeyStore(None, f"{line},{other}")
    assert (named(keys, one), named(keys, two)) == ("a", "b")


def test_keys_change_without_a_restart_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file, (old,) = key_file(tmp_path, "old")
    clock = Clock()
    keys = KeyStore(str(file), clock=clock)
    _, (new,) = key_file(tmp_path, "fresh")
    assert named(keys, old) == "old", "looked at once a second at most"
    clock.now += 2
    assert (named(keys, old), named(keys, new)) == (None, "fresh")
    for broken in ("nonsense", None):
        if broken is None:
            file.unlink()
        else:
            file.write_text(broken, encoding="utf-8")
        clock.now += 2
        assert named(keys, new) == "fresh"


@pytest.mark.parametrize("text", ["nonsense", "a:md5:00", "a:sha256:xyz", "a b:sha256:" + "0" * 64])
def test_broken_file_fails_the_start_with_its_line(tmp_path: Path, text: str) -> None:
    file, _ = key_file(tmp_path, "good")
    file.write_text(file.read_text(encoding="utf-8") + "\n" + text, encoding="utf-8")
    with pytest.raises(InvalidOption, match="line 4"):
        KeyStore(str(file))


def test_missing_file_and_a_name_twice_fail_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="No such file"):
        KeyStore(str(tmp_path / "none"))
    line = new_key("a")[1]
    with pytest.raises(InvalidOption, match="twice"):
        KeyStore(None, f"{line} {new_key('a')[1]}")
    file = tmp_path / "keys"
    file.write_text(new_key("a")[1], encoding="utf-8")
    with pytest.raises(InvalidOption, match="too"):
        KeyStore(str(file), line)


def test_made_key_works_and_its_file_is_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    first, _ = make_key("alice", file)
    second, _ = make_key("bob", file)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    keys = KeyStore(str(file))
    assert (named(keys, first), named(keys, second)) == ("alice", "bob")
    with pytest.raises(InvalidOption, match="twice"):
        make_key("alice", file)
    with pytest.raises(InvalidOption, match="letters"):
        make_key("no spaces", None)
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2


async def test_every_route_but_health_asks_for_a_key(tmp_path: Path) -> None:
    file, (key,) = key_file(tmp_path, "alice")
    async with guarded(KeyStore(str(file))) as client:
        paths = [
            (method, path)
            for path, item in (await client.get("/openapi.json", headers={"x-api-key": key})).json()["paths"].items()
            for method in item
        ]
        assert ("post", "/v1/captions/batch") in paths
        for method, path in [*paths, ("get", "/docs"), ("get", "/openapi.json"), ("post", "/mcp"), ("get", "/nowhere")]:
            answer = await client.request(method, path)
            if path in ("/healthz", "/readyz"):
                assert answer.status_code == 200
            else:
                assert answer.status_code == 401, path
                scheme = "Basic" if path in ("/docs", "/openapi.json") else "Bearer"
                assert answer.headers["www-authenticate"] == f'{scheme} realm="caption-serve"'
                assert answer.json()["status"] == 401
        assert (await client.get("/docs", auth=("me", key))).status_code == 200  # as a browser asks for it
        for headers in (
            {"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"},
            {"api-key": key}, {"x-api-key": key, "authorization": "Bearer of-a-gateway"},
            {"authorization": "Bearer of-a-gateway", "x-api-key": key},
        ):  # fmt: skip
            answer = await client.post("/v1/captions", files={"image": PNG}, headers=headers)
            assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", "wrong")], [("x-api-key", "")], [("authorization", "Bearer")], [("authorization", "Bearer ")],
        [("authorization", b"Bearer \xff\xfe")], [("x-api-key", b"\xff")], [("x-api-key", "x" * 100_000)],
        [("authorization", "Basic KEY")], [("authorization", "KEY")], [("authorization", "Basic !"), ("api-key", "x")],
    ],
)  # fmt: skip
async def test_wrong_credentials_are_401(tmp_path: Path, headers: list[tuple[str, str | bytes]]) -> None:
    file, (key,) = key_file(tmp_path, "alice")
    given = [(name, value.replace("KEY", key) if isinstance(value, str) else value) for name, value in headers]
    async with guarded(KeyStore(str(file))) as client:
        request = client.build_request("POST", "/v1/captions", files={"image": PNG})
        request.headers = httpx.Headers([*request.headers.raw, *given])  # type: ignore[list-item]
        assert_problem(await client.send(request), 401)


async def test_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("", encoding="utf-8")
    async with guarded(KeyStore(str(file))) as client:
        assert_problem(await client.post("/v1/captions", files={"image": PNG}), 401)


async def test_openai_clients_see_their_own_error(tmp_path: Path) -> None:
    file, _ = key_file(tmp_path, "alice")
    async with guarded(KeyStore(str(file))) as client:
        answer = await client.post("/v1/chat/completions", json={})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_pages_of_allowed_origins_may_ask_first(tmp_path: Path) -> None:
    file, (key,) = key_file(tmp_path, "alice")
    asks = {"origin": "https://a.example", "access-control-request-method": "POST"}
    asks["access-control-request-headers"] = "authorization"
    async with guarded(KeyStore(str(file)), cors_origins=("https://a.example",)) as client:
        preflight = await client.options("/v1/captions", headers=asks)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        refused = await client.post("/v1/captions", headers={"origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example", (
            "the page could not read the reason"
        )
        other = await client.options("/v1/captions", headers={**asks, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        answer = await client.post(
            "/v1/captions", files={"image": PNG}, headers={"origin": "https://a.example", "x-api-key": key}
        )
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_answers_carry_security_headers() -> None:
    async with guarded(KeyStore(None)) as client:
        for answer in (await client.get("/healthz"), await client.post("/v1/captions", files={"image": b"x"})):
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert "cdn.jsdelivr.net" in (await client.get("/docs")).headers["content-security-policy"]


async def test_requests_at_once_are_bounded_for_each_key(tmp_path: Path) -> None:
    file, (alice, bob) = key_file(tmp_path, "alice", "bob")
    async with guarded(KeyStore(str(file)), Limits(key_rows_at_once=2 * 46), delay_s=0.3) as client:

        async def ask(key: str) -> httpx.Response:
            return await client.post("/v1/captions", files={"image": PNG}, headers={"x-api-key": key})

        answers = await asyncio.gather(*(ask(alice) for _ in range(4)), ask(bob))
        assert sorted(answer.status_code for answer in answers[:4]) == [200, 200, 429, 429]
        assert answers[4].status_code == 200
        assert (await ask(alice)).status_code == 200, "the places were given back"
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1


def become(name: str, **limits: Any) -> None:
    """Makes the running test's request that of a key."""
    CALLER.set(Caller(Key(name=name, digest="0" * 64, **limits)))


async def charge(quota: Quota, work: int, limits: Limits) -> None:
    async with quota.hold(work, limits):
        pass


async def test_work_of_a_minute_is_bounded_for_each_key() -> None:
    quota, limits = Quota(), Limits(key_rows_per_minute=100)
    become("alice")
    await charge(quota, 46, limits)
    await charge(quota, 46, limits)
    with pytest.raises(QuotaExceeded) as caught:
        await charge(quota, 46, limits)
    assert 1 <= caught.value.retry_after_s <= 120
    await charge(quota, 8, limits)
    become("bob")
    await charge(quota, 46, limits)
    become("carol", rows_per_minute=10)
    with pytest.raises(QuotaExceeded, match="may have 10 a minute"):
        await charge(quota, 46, limits)


async def test_limits_are_divided_among_the_processes() -> None:
    quota, limits = Quota(lambda: 3), Limits(key_rows_per_minute=6)
    become("alice")
    for _ in range(2):
        await charge(quota, 1, limits)
    with pytest.raises(QuotaExceeded):
        await charge(quota, 1, limits)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        for _ in range(100):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.kill()


async def test_four_replicas_with_a_redis_count_exactly_together(redis_url: str) -> None:
    """A limit of 5 let in 16 with 16 replicas, and a replica that started brought a full bucket."""
    limits = Limits(key_rows_per_minute=50)
    become("alice")

    async def tries(quota: Quota) -> int:
        passed = 0
        for _ in range(30):
            try:
                await charge(quota, 1, limits)
                passed += 1
            except QuotaExceeded:
                await asyncio.sleep(0)
        return passed

    passed = await asyncio.gather(*(tries(Quota(lambda: 4, redis_url)) for _ in range(4)))
    assert sum(passed) == 50
    assert await tries(Quota(lambda: 4, redis_url)) == 0


async def test_without_its_redis_each_replica_counts_its_share() -> None:
    become("alice")
    quota, limits = Quota(lambda: 2, "redis://127.0.0.1:1/0"), Limits(key_rows_per_minute=4)
    await charge(quota, 2, limits)
    with pytest.raises(QuotaExceeded):
        await charge(quota, 1, limits)


async def test_one_request_is_charged_for_all_that_it_asks(tmp_path: Path) -> None:
    """A key of one request a minute got 512 captions in one chat."""
    file, (key,) = key_file(tmp_path, "alice")
    headers = {"authorization": f"Bearer {key}"}
    async with guarded(KeyStore(str(file)), Limits(key_rows_per_minute=100, default_detail="low")) as client:
        body = {"model": "fake", "n": 8, "messages": message(*[URI] * 8)}
        refused = await client.post("/v1/chat/completions", json=body, headers=headers)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        one = await client.post("/v1/captions", files={"image": PNG}, headers=headers)
        assert one.status_code == 200
        assert (one.headers["x-ratelimit-limit"], one.headers["x-ratelimit-remaining"]) == ("100", "68")
        assert int(one.headers["x-ratelimit-reset"]) <= 120
        three = [("image", (f"{number}.png", PNG)) for number in range(3)]
        lines = (await client.post("/v1/captions/batch", files=three, headers=headers)).text.splitlines()
        errors = [json.loads(line)["error"] for line in lines]
        assert sorted(error["status"] if error else 200 for error in errors) == [200, 200, 429]


def test_a_key_has_limits_and_an_end_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    good, _ = make_key("alice", file, rows_per_minute=10, expires=date(2999, 1, 1))
    old, _ = make_key("bob", file, expires=date(2020, 1, 1))
    keys = KeyStore(str(file))
    key = keys.check(good)
    assert key is not None
    assert (key.rows_per_minute, key.rows_at_once) == (10, None)
    assert keys.check(old) is None
    assert list_keys(file) == ["alice  rows_per_minute=10  expires=2999-01-01", "bob  expires=2020-01-01  expired"]
    assert KeyStore(None, file.read_text(encoding="utf-8").replace("\n", ",")).check(good) == key
    revoke_key("alice", file)
    assert list_keys(file) == ["bob  expires=2020-01-01  expired"]
    assert KeyStore(str(file)).check(good) is None
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    with pytest.raises(InvalidOption, match="no key"):
        revoke_key("alice", file)
    for broken in ("rows_per_minute=0", "expires=soon", "colour=red"):
        with pytest.raises(InvalidOption, match="limits are rows_per_minute, rows_at_once, expires"):
            KeyStore(None, f"a:sha256:{'0' * 64};{broken}")


async def test_a_batch_waits_for_its_own_key(tmp_path: Path) -> None:
    """Eight of its images began at once, and those beyond the key's two were 429."""
    file, (key,) = key_file(tmp_path, "alice")
    async with guarded(KeyStore(str(file)), Limits(key_rows_at_once=100, default_detail="low")) as client:
        files = [("image", (f"{number}.png", PNG)) for number in range(10)]
        answer = await client.post("/v1/captions/batch", files=files, headers={"x-api-key": key}, timeout=60)
    assert [json.loads(line)["error"] for line in answer.text.splitlines()] == [None] * 10


async def test_what_a_key_has_at_once_is_counted_while_its_minute_is_asked_for(redis_url: str) -> None:
    become("alice")
    quota, limits = Quota(redis_url=redis_url), Limits(key_rows_at_once=2, key_rows_per_minute=1000)

    async def one() -> bool:
        try:
            async with quota.hold(1, limits):
                await asyncio.sleep(0.3)
        except QuotaExceeded:
            return False
        return True

    assert sum(await asyncio.gather(*(one() for _ in range(20)))) == 2


async def test_a_chat_that_is_refused_for_load_uses_up_nothing(tmp_path: Path) -> None:
    file, (key,) = key_file(tmp_path, "alice")
    headers = {"authorization": f"Bearer {key}"}
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), Limits(key_rows_per_minute=50), lambda _: 60)
    transport = httpx.ASGITransport(create_app(service, keys=KeyStore(str(file))))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = {"model": "fake", "messages": message(URI)}
        with service.admission.of(ONLY).admit(50):
            assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 503
        assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    service.close()
