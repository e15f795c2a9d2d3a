"""Images by URL, and webhooks: allowed hosts at checked addresses only, bounded in bytes and time."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

import httpcore
import httpx

import serve_app
from serve_app.errors import (
    CaptionServeError,
    FetchFailed,
    FetchTimedOut,
    FetchUnavailable,
    ImageTooLarge,
    UrlNotAllowed,
)
from serve_app.limits import Limits
from serve_app.service.addresses import Address, allowed

MAX_REDIRECTS = 3
MAX_URL_CHARACTERS = 2048
MAX_FETCHES = 32
"""At once in this process."""

Resolver = Callable[[str, int], Awaitable[list[str]]]
"""From host and port to numeric addresses."""

_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity"}
_REDIRECTS = (301, 302, 303, 307, 308)
_FAILURES = (
    httpcore.ProxyError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    OSError,
    ValueError,
)


_LOOKUPS = ThreadPoolExecutor(MAX_FETCHES, thread_name_prefix="dns")
"""Threads of their own: names whose server is silent would take those that parse requests."""


async def resolve(host: str, port: int) -> list[str]:
    """The system's answer. Raises `OSError`."""
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    entries = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


@dataclass(frozen=True)
class _Use:
    """What a URL is for: its name in errors, and the words for what is done with it."""

    name: str
    does: str
    done: str
    setting: str
    """The one that lists the hosts."""

    def hosts(self, limits: Limits) -> tuple[str, ...]:
        hosts: tuple[str, ...] = getattr(limits, self.setting)
        return hosts


_IMAGE = _Use("image", "fetch from", "fetched", "fetch_hosts")
_WEBHOOK = _Use("webhook", "send to", "called", "webhook_hosts")


class Fetcher:
    """Fetches images for every interface, and calls webhooks, by the same rules."""

    def __init__(self, resolver: Resolver = resolve, ssl_context: ssl.SSLContext | None = None) -> None:
        self._resolver = resolver
        self._ssl_context = ssl_context
        self._room = asyncio.Semaphore(MAX_FETCHES)

    async def fetch(self, url: str, limits: Limits) -> bytes:
        """The body that `url` leads to.

        Raises `UrlNotAllowed`, `FetchFailed`, `FetchUnavailable`, `FetchTimedOut` and `ImageTooLarge`.
        """
        if not limits.fetch_hosts:
            raise UrlNotAllowed("image: this service does not fetch URLs; send the image itself.")
        try:
            async with asyncio.timeout(limits.fetch_timeout_s), self._room:
                return await self._follow(url, limits)
        except TimeoutError:
            raise FetchTimedOut(f"image: the URL did not respond within {limits.fetch_timeout_s:g} s.") from None

    async def post(self, url: str, content: bytes, headers: Mapping[str, str], limits: Limits) -> None:
        """Sends JSON to a webhook; redirects are not followed.

        Raises `UrlNotAllowed`, `FetchFailed` (no such host), `FetchTimedOut`, and `FetchUnavailable`, also for an
        answer that is not 2xx.
        """
        target = check_webhook(url, limits)
        try:
            async with (
                self._room,
                asyncio.timeout(limits.fetch_timeout_s),
                self._stream(target, limits, _WEBHOOK, "POST", headers, content) as response,
            ):
                if not 200 <= response.status < 300:
                    raise FetchUnavailable(f"webhook: {_name(target)[:100]} answered {response.status}.")
        except TimeoutError:
            raise FetchTimedOut(f"webhook: the URL did not respond within {limits.fetch_timeout_s:g} s.") from None

    async def _follow(self, url: str, limits: Limits) -> bytes:
        target = _parse(url, limits, _IMAGE)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._get(target, limits)
            if isinstance(answer, bytes):
                return answer
            following = _parse(_joined(target, answer), limits, _IMAGE)
            if target.scheme == "https" and following.scheme != "https":
                raise UrlNotAllowed("image: the server redirects from https to http.")
            target = following
        raise FetchFailed(f"image: there are more than {MAX_REDIRECTS} redirects.")

    async def _get(self, url: httpx.URL, limits: Limits) -> bytes | str:
        """The body, or where a redirect leads."""
        async with self._stream(url, limits, _IMAGE, "GET", _HEADERS) as response:
            return await _body(response, _name(url), limits)

    @asynccontextmanager
    async def _stream(
        self,
        url: httpx.URL,
        limits: Limits,
        use: _Use,
        method: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        host = _name(url)
        port = url.port or (443 if url.scheme == "https" else 80)
        is_checked = not limits.fetch_proxy or _is_address(host)
        checked = await self._addresses(host, port, limits, use) if is_checked else ()
        backend = _CheckedBackend(checked)
        context = self._ssl_context or _trusted(limits.fetch_ca_file)
        try:
            async with httpcore.AsyncConnectionPool(
                ssl_context=context,
                network_backend=None if limits.fetch_proxy else backend,
                max_connections=1,
                max_keepalive_connections=0,
                proxy=httpcore.Proxy(limits.fetch_proxy) if limits.fetch_proxy else None,
            ) as pool:
                default = port == (443 if url.scheme == "https" else 80)
                shown = f"[{host}]" if ":" in host else host
                origin = httpcore.URL(
                    scheme=url.scheme.encode(), host=host.encode(), port=port, target=url.raw_path or b"/"
                )
                sent = {
                    "Host": shown if default else f"{shown}:{port}",
                    "User-Agent": _user_agent(limits),
                    "Connection": "close",
                    **headers,
                }
                if content is not None:
                    sent["Content-Length"] = str(len(content))
                encoded = [(name.encode(), value.encode()) for name, value in sent.items()]
                async with pool.stream(method, origin, headers=encoded, content=content) as response:
                    yield response
        except (CaptionServeError, TimeoutError):
            raise
        except _FAILURES as error:
            raise FetchUnavailable(f"{use.name}: cannot {use.does} {host[:100]}: {_reason(error)}.") from error
        finally:
            await backend.close()

    async def _addresses(self, host: str, port: int, limits: Limits, use: _Use) -> list[str]:
        """All of the host's addresses, if every one is allowed."""
        try:
            addresses = [_address(text) for text in await self._resolver(host, port)]
        except (OSError, ValueError, UnicodeError):
            raise FetchFailed(f"{use.name}: there is no host {host[:100]!r}.") from None
        if not addresses:
            raise FetchFailed(f"{use.name}: there is no host {host[:100]!r}.")
        if not all(allowed(address, limits.fetch_networks) for address in addresses):
            raise UrlNotAllowed(f"{use.name}: {host[:100]!r} is not at a public address.")
        return [str(address) for address in addresses]


@functools.cache
def _trusted(ca_file: str | None) -> ssl.SSLContext:
    """Made once: it takes 20 ms of the event loop."""
    context = httpx.create_ssl_context(trust_env=False)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def _is_address(host: str) -> bool:
    """Whether the host is an address and no name, which a proxy resolves itself."""
    try:
        _address(host)
    except ValueError:
        return False
    return True


def _user_agent(limits: Limits) -> str:
    contact = f" ({limits.fetch_contact})" if limits.fetch_contact else ""
    return f"caption-serve/{serve_app.__version__}{contact}"


def _joined(url: httpx.URL, location: str) -> str:
    try:
        return urljoin(str(url), location)
    except ValueError:
        raise UrlNotAllowed("image: the server redirects to a malformed URL.") from None


def check_webhook(url: str, limits: Limits) -> httpx.URL:
    """The URL, if its form and host are allowed. Raises `UrlNotAllowed`."""
    if not limits.webhook_hosts:
        raise UrlNotAllowed("webhook: this service calls none (webhook_hosts).")
    return _parse(url, limits, _WEBHOOK)


def _parse(text: str, limits: Limits, use: _Use) -> httpx.URL:
    """The URL, if its form and host are allowed."""
    if len(text) > MAX_URL_CHARACTERS:
        raise UrlNotAllowed(f"{use.name}: the URL has more than {MAX_URL_CHARACTERS} characters.")
    try:
        url = httpx.URL(text)
        host = _name(url)
        port = url.port
    except (httpx.InvalidURL, ValueError, UnicodeError):
        raise UrlNotAllowed(f"{use.name}: the URL is malformed.") from None
    if url.scheme not in ("http", "https") or not host:
        raise UrlNotAllowed(f"{use.name}: only http and https URLs with a host are {use.done}.")
    if url.userinfo:
        raise UrlNotAllowed(f"{use.name}: URLs with a user name or password are not {use.done}.")
    if port is not None and not 0 < port < 65536:
        raise UrlNotAllowed(f"{use.name}: the URL is malformed.")
    if not _listed(host, port, limits, use):
        if _listed(host, None, limits, use):
            raise UrlNotAllowed(f"{use.name}: for port {port} `{use.setting}` must list the host by its name.")
        raise UrlNotAllowed(f"{use.name}: this service does not {use.does} {host[:100]!r}.")
    return url


def _name(url: httpx.URL) -> str:
    """The host in ASCII, without the dot that may end it: certificates don't have it."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def _listed(host: str, port: int | None, limits: Limits, use: _Use) -> bool:
    """A host may be listed by name. With `*` only usual ports are open, and all of an address in a listed network."""
    usual = port in (None, 80, 443) or _in_networks(host, limits)
    for entry in (given.lower().rstrip(".") for given in use.hosts(limits)):
        if entry == host:
            return True
        if usual and (entry == "*" or (entry.startswith("*.") and host.endswith(entry[1:]))):
            return True
    return False


def _in_networks(host: str, limits: Limits) -> bool:
    try:
        address = _address(host.strip("[]"))
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network, strict=False) for network in limits.fetch_networks)


def _address(text: str) -> Address:
    return ipaddress.ip_address(text.partition("%")[0])


async def _body(response: httpcore.Response, host: str, limits: Limits) -> bytes | str:
    headers = {name.lower(): value for name, value in response.headers}
    if response.status in _REDIRECTS and b"location" in headers:
        return headers[b"location"].decode("latin-1")
    if response.status != 200:
        kind = FetchUnavailable if response.status >= 500 or response.status == 429 else FetchFailed
        raise kind(f"image: {host[:100]} answered {response.status}.")
    if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
        raise FetchFailed(f"image: {host[:100]} sent it compressed.")
    too_large = ImageTooLarge(f"The image has more than {limits.max_image_bytes} bytes.")
    if int(headers.get(b"content-length", b"0")) > limits.max_image_bytes:
        raise too_large
    data = bytearray()
    async for chunk in response.aiter_stream():
        data += chunk
        if len(data) > limits.max_image_bytes:
            raise too_large
    return bytes(data)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) or "certificate" in str(error).lower():
        return "its TLS certificate is invalid"
    return "it cannot be reached" if isinstance(error, httpcore.NetworkError | OSError) else "its answer is malformed"


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever the name resolves to by now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses
        self._backend = httpcore.AnyIOBackend()
        self._streams: list[httpcore.AsyncNetworkStream] = []

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in self._addresses:
            try:
                stream = await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
                continue
            self._streams.append(stream)
            return stream
        assert failure is not None
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Closes what a peer that never finished its TLS handshake would keep open."""
        for stream in self._streams:
            await asyncio.shield(asyncio.ensure_future(stream.aclose()))
