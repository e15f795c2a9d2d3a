"""Fetching by URL, from servers that mean well and others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psutil
import pytest
from pydantic import ValidationError

from serve_app.args import AppArgs
from serve_app.errors import (
    CaptionServeError,
    FetchFailed,
    FetchTimedOut,
    FetchUnavailable,
    ImageTooLarge,
    UrlNotAllowed,
)
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService
from serve_app.service.addresses import allowed
from serve_app.service.fetch import Fetcher
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, echo

HERE = Limits(
    fetch_hosts=("127.0.0.1", "*.example.org", "example.org"),
    fetch_networks=("127.0.0.0/8",),
    fetch_timeout_s=2,
    max_image_bytes=1000,
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nimage"

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def server(answer: bytes | Answer) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers every connection by `answer`; yields the port and what was asked."""
    asked: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(head, writer)
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], asked
    finally:
        listening.close()


def resolver(*answers: list[str]) -> Callable[[str, int], Awaitable[list[str]]]:
    """Answers one after the other, the last one for ever."""
    left = list(answers)

    async def resolve(host: str, port: int) -> list[str]:
        return left.pop(0) if len(left) > 1 else left[0]

    return resolve


async def test_image_is_fetched_without_credentials_or_cookies() -> None:
    async with server(OK) as (port, asked):
        assert await Fetcher().fetch(f"http://127.0.0.1:{port}/a.png?b=c#d", HERE) == b"image"
    head = asked[0].decode().lower()
    assert head.startswith("get /a.png?b=c http/1.1\r\n")
    assert f"host: 127.0.0.1:{port}\r\n" in head
    assert "cookie" not in head
    assert "authorization" not in head
    assert "#d" not in head


async def test_nothing_is_fetched_unless_hosts_are_listed() -> None:
    with pytest.raises(UrlNotAllowed, match="does not fetch URLs"):
        await Fetcher().fetch("http://127.0.0.1/", Limits())


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http:///a", "http://u:p@127.0.0.1/", "http://127.0.0.1:0/",
        "http://other.org/", "http://notexample.org/", "http://example.org.evil.com/", "http://127.0.0.1:99999/", "http://[::1",
        "http://127.0.0.1/" + "a" * 3000, "http://example.org\\@other.org/", "http://\x00/", "//127.0.0.1/", "",
    ],
)  # fmt: skip
async def test_other_urls_are_refused_before_anything_is_asked(url: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise AssertionError(host)

    with pytest.raises(UrlNotAllowed):
        await Fetcher(resolve).fetch(url, HERE)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1", "198.18.0.1", "240.0.0.1",
        "::", "::1", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::10.0.0.1", "2002:0a00:0001::", "2001:0:0a00:1::",
        "fd00:ec2::254", "::ffff:169.254.169.254", "100::1",
    ],
)  # fmt: skip
async def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not allowed(ipaddress.ip_address(address), ())
    for found in ([address], ["93.184.216.34", address]):
        with pytest.raises(UrlNotAllowed, match="not at a public address"):
            await Fetcher(resolver(found)).fetch("http://example.org/", Limits(fetch_hosts=("*",)))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946"])
def test_public_addresses_are_allowed(address: str) -> None:
    assert allowed(ipaddress.ip_address(address), ())


async def test_name_that_changes_its_address_meets_only_the_checked_one() -> None:
    """A name that is public when it is checked and private when it is connected to."""
    async with server(OK) as (port, asked):
        fetcher = Fetcher(resolver(["127.0.0.1"], ["10.0.0.1"]))
        assert await fetcher.fetch(f"http://example.org:{port}/", HERE) == b"image"
        assert f"host: example.org:{port}".encode() in asked[0].lower()
        with pytest.raises(UrlNotAllowed):
            await fetcher.fetch(f"http://example.org:{port}/", HERE)


async def test_star_takes_the_usual_ports_only() -> None:
    for hosts in (("*",), ("*.example.org",)):
        with pytest.raises(UrlNotAllowed, match="port 8080"):
            await Fetcher(resolver(["93.184.216.34"])).fetch("http://a.example.org:8080/", Limits(fetch_hosts=hosts))


async def test_redirects_are_followed_three_times_and_checked() -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        hops = int(head.split()[1].removeprefix(b"/"))
        writer.write(OK if hops == 0 else b"HTTP/1.1 302 Found\r\nLocation: /%d\r\n\r\n" % (hops - 1))

    async with server(answer) as (port, _):
        assert await Fetcher().fetch(f"http://127.0.0.1:{port}/3", HERE) == b"image"
        with pytest.raises(FetchFailed, match="more than 3 redirects"):
            await Fetcher().fetch(f"http://127.0.0.1:{port}/4", HERE)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/",
        "http://other.org/",
        "file:///etc/passwd",
        "http://10.0.0.1/",
        "http://u:p@127.0.0.1/",
        "http://[",
    ],
)
async def test_redirect_elsewhere_is_refused(location: str) -> None:
    async with server(f"HTTP/1.1 301 Moved\r\nLocation: {location}\r\n\r\n".encode()) as (port, _):
        with pytest.raises(UrlNotAllowed):
            await Fetcher().fetch(f"http://127.0.0.1:{port}/", HERE)


async def _trickle(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    for _ in range(100):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.1)


async def _silent(head: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(10)


BAD: dict[str, tuple[Any, type[CaptionServeError]]] = {
    "404": (b"HTTP/1.1 404 Not Found\r\n\r\nsecret", FetchFailed),
    "500": (b"HTTP/1.1 500 Oh\r\n\r\nsecret", FetchUnavailable),
    "too long": (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", ImageTooLarge),
    "longer than told": (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, ImageTooLarge),
    "compressed": (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nimage", FetchFailed),
    "no HTTP": (b"hello\r\n\r\n", FetchUnavailable),
    "nothing": (b"", FetchUnavailable),
    "cut": (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nimage", FetchUnavailable),
    "bad chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", FetchUnavailable),
    "bad length": (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nimage", FetchUnavailable),
    "endless header": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000, FetchUnavailable),
    "trickle": (_trickle, FetchTimedOut),
    "silent": (_silent, FetchTimedOut),
}


@pytest.mark.parametrize("name", BAD)
async def test_bad_server_is_one_sentence_and_leaves_no_socket(name: str) -> None:
    answer, error = BAD[name]
    async with server(answer) as (port, _):
        with pytest.raises(error) as caught:
            await Fetcher().fetch(f"http://127.0.0.1:{port}/", HERE)
        assert "secret" not in caught.value.message
        assert connections_to(port) == 0


async def test_nobody_listens() -> None:
    async with server(OK) as (port, _):
        pass
    with pytest.raises(FetchUnavailable, match="cannot be reached"):
        await Fetcher().fetch(f"http://127.0.0.1:{port}/", HERE)


def connections_to(port: int) -> int:
    found = psutil.Process().net_connections("tcp")
    return sum(1 for one in found if one.raddr and one.raddr.port == port and one.status == psutil.CONN_ESTABLISHED)


async def test_peer_that_never_shakes_hands_leaves_no_socket() -> None:
    """The socket stayed open after the time-out, until the garbage collector came."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(10)
        writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    limits = Limits(fetch_hosts=HERE.fetch_hosts, fetch_networks=HERE.fetch_networks, fetch_timeout_s=0.5)
    with pytest.raises(FetchTimedOut, match="did not respond within"):
        await Fetcher().fetch(f"https://127.0.0.1:{port}/", limits)
    assert connections_to(port) == 0
    listening.close()


async def test_an_address_of_a_listed_network_is_fetched_at_any_port() -> None:
    """`--fetch-network` alone opened no port but 80 and 443, and the error spoke of the host."""

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    async with server(answer) as (port, _):
        limits = Limits(fetch_hosts=("*",), fetch_networks=("127.0.0.0/8",))
        assert await Fetcher().fetch(f"http://127.0.0.1:{port}/", limits) == b"image"


@asynccontextmanager
async def api(limits: Limits) -> AsyncIterator[httpx.AsyncClient]:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), limits)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        yield client
    service.close()


async def test_names_whose_server_is_silent_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve of them took the threads that parse requests: an ordinary one lasted 14.5 s."""
    real = socket.getaddrinfo

    def look_up(host: str, *rest: Any, **named: Any) -> Any:
        if host.endswith(".dead"):
            time.sleep(1)
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    async with api(Limits(fetch_hosts=("*",), default_strategy="classic")) as client:
        urls = [f"http://{number}.dead/a.png" for number in range(30)]
        dead = [asyncio.create_task(client.post("/v1/captions", json={"image": url, "timeout_s": 0.2})) for url in urls]
        await asyncio.sleep(0.05)
        start = time.perf_counter()
        answer = await client.post("/v1/captions", json={"image": base64.b64encode(PNG).decode(), "detail": "low"})
        assert (answer.status_code, time.perf_counter() - start < 0.5) == (200, True)
        assert {(await task).status_code for task in dead} == {504}


async def test_options_are_checked_before_anything_is_fetched_and_its_time_counts() -> None:
    """A slow server's image came after four times the request's limit, and `total` had 7 ms."""
    asked = []

    async def answer(request: bytes, writer: asyncio.StreamWriter) -> None:
        asked.append(request)
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)

    async with server(answer) as (port, _), api(HERE.model_copy(update={"max_image_bytes": 100_000})) as client:
        image = {"image": f"http://127.0.0.1:{port}/a.png"}
        assert (await client.post("/v1/captions", json={**image, "detail": "nonsense"})).status_code == 422
        assert asked == []
        late = await client.post("/v1/captions", json={**image, "timeout_s": 0.1})
        assert late.status_code == 504
        fine = await client.post("/v1/captions", json={**image, "detail": "low"})
        assert fine.json()["timings_ms"]["total"] >= fine.json()["timings_ms"]["intake"] >= 300
    assert b"User-Agent: caption-serve/" in asked[-1]


async def test_images_of_a_chat_are_fetched_together() -> None:
    """Six slow ones came one after the other."""

    async def answer(_: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG) + PNG)

    async with server(answer) as (port, _), api(HERE.model_copy(update={"max_image_bytes": 100_000})) as client:
        parts = [{"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{port}/{n}.png"}} for n in range(6)]
        body = {"model": "fake", "messages": [{"role": "user", "content": parts}]}
        start = time.perf_counter()
        assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        assert time.perf_counter() - start < 1.5


@pytest.mark.parametrize(
    "settings",
    [
        {"fetch_networks": ["10.0.0.0/33"]}, {"fetch_networks": ["banana"]}, {"fetch_proxy": "squid:3128"},
        {"fetch_ca_file": "/none"}, {"cors_origins": ["https://a.example/"]}, {"cors_origins": ["a.example"]},
    ],
)  # fmt: skip
def test_settings_that_cannot_work_fail_the_start(settings: dict[str, Any]) -> None:
    """A typing error passed, and every URL was a 500 then."""
    with pytest.raises(ValidationError):
        AppArgs(**settings)
    live = {name: value for name, value in settings.items() if name != "cors_origins"}
    if live:
        with pytest.raises(ValidationError):
            AppArgs().reconfigured(live)


async def test_a_proxy_fetches_and_addresses_are_checked_all_the_same() -> None:
    async def proxy(request: bytes, writer: asyncio.StreamWriter) -> None:
        assert request.startswith(b"GET http://images.example"), request
        writer.write(OK)

    async with server(proxy) as (port, asked):
        limits = Limits(fetch_hosts=("*",), fetch_proxy=f"http://127.0.0.1:{port}", fetch_contact="me@example.org")
        assert await Fetcher().fetch("http://images.example/a.png", limits) == b"image"
        assert len(asked) == 1
        with pytest.raises(UrlNotAllowed):
            await Fetcher().fetch("http://169.254.169.254/latest", limits)
        assert len(asked) == 1
