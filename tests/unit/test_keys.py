"""API keys: the file, the guard, the limits of each key."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve_app.cli.keys import make_key
from serve_app.errors import InvalidOption, QuotaExceeded
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, KeyStore
from serve_app.service.keys import new_key
from serve_app.service.quota import Quota
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, assert_problem, echo


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
    assert (keys.check(first), keys.check(second)) == ("alice", "bob")
    assert keys.check(first[:-1]) is None
    assert keys.check("") is None
    assert first not in file.read_text(encoding="utf-8")


def test_environment_has_keys_too() -> None:
    (one, line), (two, other) = new_key("a"), new_key("b")
    keys = KeyStore(None, f"{line},{other}")
    assert (keys.check(one), keys.check(two)) == ("a", "b")


def test_keys_change_without_a_restart_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    file, (old,) = key_file(tmp_path, "old")
    clock = Clock()
    keys = KeyStore(str(file), clock=clock)
    _, (new,) = key_file(tmp_path, "fresh")
    assert keys.check(old) == "old", "looked at once a second at most"
    clock.now += 2
    assert (keys.check(old), keys.check(new)) == (None, "fresh")
    for broken in ("nonsense", None):
        if broken is None:
            file.unlink()
        else:
            file.write_text(broken, encoding="utf-8")
        clock.now += 2
        assert keys.check(new) == "fresh"


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
    assert (keys.check(first), keys.check(second)) == ("alice", "bob")
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
                assert answer.headers["www-authenticate"] == 'Bearer realm="caption-serve"'
                assert answer.json()["status"] == 401
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}):
            answer = await client.post("/v1/captions", files={"image": PNG}, headers=headers)
            assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", "wrong")], [("x-api-key", "")], [("authorization", "Bearer")], [("authorization", "Bearer ")],
        [("authorization", b"Bearer \xff\xfe")], [("x-api-key", b"\xff")], [("x-api-key", "x" * 100_000)],
        [("x-api-key", "KEY"), ("authorization", "Bearer other")], [("x-api-key", "KEY"), ("x-api-key", "other")],
        [("authorization", "Basic KEY")], [("authorization", "KEY")],
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
    async with guarded(KeyStore(str(file)), Limits(key_concurrency=2), delay_s=0.3) as client:

        async def ask(key: str) -> httpx.Response:
            return await client.post("/v1/captions", files={"image": PNG}, headers={"x-api-key": key})

        answers = await asyncio.gather(*(ask(alice) for _ in range(4)), ask(bob))
        assert sorted(answer.status_code for answer in answers[:4]) == [200, 200, 429, 429]
        assert answers[4].status_code == 200
        assert (await ask(alice)).status_code == 200, "the places were given back"
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert_problem(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1


def test_requests_a_minute_come_back_evenly() -> None:
    clock = Clock()
    quota, limits = Quota(clock=clock), Limits(key_requests_per_minute=6)
    for _ in range(6):
        with quota.hold("alice", limits):
            pass
    with pytest.raises(QuotaExceeded) as caught, quota.hold("alice", limits):
        pass
    assert caught.value.retry_after_s == pytest.approx(10)
    with quota.hold("bob", limits):
        pass
    clock.now += 10
    with quota.hold("alice", limits):
        pass


def test_limits_are_divided_among_the_processes() -> None:
    quota, limits = Quota(lambda: 3, Clock()), Limits(key_requests_per_minute=6)
    for _ in range(2):
        with quota.hold("alice", limits):
            pass
    with pytest.raises(QuotaExceeded), quota.hold("alice", limits):
        pass


async def test_page_takes_the_key_as_a_password(tmp_path: Path) -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from serve_app.http.middleware.guard import GuardMiddleware

    file, (key,) = key_file(tmp_path, "alice")
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("page"))])
    guard = GuardMiddleware(app, KeyStore(str(file)), Quota(), Limits, challenge="Basic")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://test") as client:
        assert (await client.get("/")).headers.get_list("www-authenticate") == ['Basic realm="caption-serve"']
        assert (await client.get("/", auth=("me", key))).text == "page"
        assert (await client.get("/", auth=("me", "wrong"))).status_code == 401
        odd = base64.b64encode(b"\xff\xff:\xff").decode()
        for value in ("Basic !", "Basic", f"Basic {odd}"):
            assert (await client.get("/", headers={"authorization": value})).status_code == 401
