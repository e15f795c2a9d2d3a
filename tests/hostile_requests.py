"""Requests that nobody should send, for every door: name, method, path, headers, body."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.pictures import encoded, hostile, picture

PNG = encoded(picture(), "PNG")
DATA_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
FAST = {"strategy": "basic"}


@dataclass(frozen=True)
class Hostile:
    """One request; `path` is below the service's root."""

    name: str
    path: str
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


def multipart(parts: list[tuple[str, str | None, bytes]], boundary: str = "b0undary") -> tuple[bytes, dict[str, str]]:
    """A form of (name, file name, data) parts, and its header."""
    body = b""
    for name, file, data in parts:
        extra = f'; filename="{file}"' if file is not None else ""
        body += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + data + b"\r\n"
        )
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def chat(image: Any, **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": image}}]
    return {"model": "caption-serve", "messages": [{"role": "user", "content": content}], **more}


def tool(image: Any, **more: Any) -> dict[str, Any]:
    arguments = {"image": image, **more}
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "caption_image", "arguments": arguments},
    }


JSON = {"content-type": "application/json"}
MCP = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def images() -> Iterator[Hostile]:
    """Every hostile file through every door."""
    for name, (data, _) in hostile().items():
        if len(data) > 1_000_000:
            continue
        body, headers = multipart([("image", "a.jpg", data), ("strategy", None, b"basic")])
        uri = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        yield Hostile(f"form: {name}", "/v1/captions", body, headers)
        yield Hostile(f"events: {name}", "/v1/captions", body, {**headers, "accept": "text/event-stream"})
        yield Hostile(f"raw: {name}", "/v1/captions?strategy=basic", data, {"content-type": "image/jpeg"})
        yield Hostile(f"json: {name}", "/v1/captions", as_json({"image": uri, **FAST}), JSON)
        yield Hostile(f"batch: {name}", "/v1/captions/batch", body, headers)
        yield Hostile(f"chat: {name}", "/v1/chat/completions", as_json(chat(uri)), JSON)
        yield Hostile(f"mcp: {name}", "/mcp", as_json(tool(uri)), MCP)


BROKEN_JSON = {
    "nothing": b"",
    "a word": b"hello",
    "cut": b'{"image": "' + b"A" * 100,
    "null": b"null",
    "number": b"1e999",
    "list": b"[]",
    "text": b'"x"',
    "not UTF-8": b'{"image": "\xff\xfe"}',
    "UTF-16": '{"image": "x"}'.encode("utf-16"),
    "lone surrogate": b'{"image": "\\ud800", "messages": "\\udfff", "method": "\\ud800"}',
    "NUL": b'{"image": "\\u0000"}',
    "deep lists": b"[" * 50_000 + b"]" * 50_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "many values": b"[" + b"1," * 300_000 + b"1]",
    "many keys": b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}",
    "huge integer": b'{"image": "x", "seed": ' + b"9" * 10_000 + b"}",
    "same key twice": b'{"image": 1, "image": 2}',
    "NaN": b'{"image": "x", "timeout_s": NaN}',
    "byte order mark": b"\xef\xbb\xbf{}",
}


def bodies() -> Iterator[Hostile]:
    """Broken JSON, forms and content types."""
    doors = (("/v1/captions", JSON), ("/v1/chat/completions", JSON), ("/mcp", MCP), ("/v1/captions/batch", JSON))
    for (name, data), (path, headers) in itertools.product(BROKEN_JSON.items(), doors):
        yield Hostile(f"{path}: {name}", path, data, headers)
    good, header = multipart([("image", "a.png", PNG), ("strategy", None, b"basic")])
    forms = {
        "no boundary": (good, "multipart/form-data"),
        "another boundary": (good, "multipart/form-data; boundary=other"),
        "long boundary": (good, "multipart/form-data; boundary=" + "b" * 4000),
        "cut": (good[:-30], header["content-type"]),
        "cut in a header": (good[:40], header["content-type"]),
        "only the end": (b"--b0undary--\r\n", header["content-type"]),
        "no image": multipart([("picture", "a.png", PNG)]),
        "image is a field": multipart([("image", None, PNG)]),
        "many fields": multipart([("image", "a.png", PNG), *[(f"f{n}", None, b"x") for n in range(500)]]),
        "many images": multipart([("image", f"{n}.png", b"x") for n in range(300)]),
        "large field": multipart([("image", "a.png", PNG), ("detail", None, b"x" * 1_000_000)]),
        "odd file name": multipart([("image", "../../etc/passwd\x00", b"x")]),
        "long file name": multipart([("image", "n" * 5000, PNG), ("strategy", None, b"basic")]),
        "emoji file name": multipart([("image", "\N{DOG FACE}.png", PNG), ("strategy", None, b"basic")]),
    }
    for path, (name, (data, kind)) in itertools.product(("/v1/captions", "/v1/captions/batch"), forms.items()):
        content_type = kind if isinstance(kind, str) else kind["content-type"]
        yield Hostile(f"{path} form: {name}", path, data, {"content-type": content_type})
    kinds = (
        "text/html",
        "application/xml",
        "image/",
        "image/../x",
        "multipart/mixed",
        "video/mp4",
        ";",
        "x" * 3000,
        "*/*",
    )
    for path, kind in itertools.product(("/v1/captions", "/v1/captions/batch", "/v1/chat/completions", "/mcp"), kinds):
        yield Hostile(f"{path} type: {kind[:20]}", path, PNG, {"content-type": kind})


URLS = (
    "http://169.254.169.254/latest/meta-data/", "http://localhost/", "http://[::1]/", "http://0.0.0.0/", "http://2130706433/",
    "http://0x7f.1/", "http://127.1/", "http://[::ffff:127.0.0.1]/", "http://10.0.0.1/", "http://user:pass@example.org/",
    "https://", "http://", "http:///x", "http://a b/", "http://exa\nmple.org/", "http://example.org:99999/", "http://%00/",
    "http://" + "a" * 5000, "http://" + "a." * 200 + "org/", "HTTP://LOCALHOST/", "http://example.org\\@127.0.0.1/",
    "http://[fe80::1%25eth0]/", "http://①②⑦.0.0.1/", "file:///etc/passwd", "ftp://example.org/x", "gopher://x/",
    "//x/y",
    "javascript:alert(1)", "data:,", "data:text/html;base64,PGh0bWw+", "data:image/png,notbase64",
    "data:image/png;base64,%%%",
    "data:" + "x" * 10_000, "data:;base64,", "", " ", "\x00", "A" * 100_001, "é" * 50,
)  # fmt: skip


def urls() -> Iterator[Hostile]:
    """Addresses that must not be fetched, and texts that are no image."""
    for number, url in enumerate(URLS):
        name = f"url {number} {url[:30]!r}"
        yield Hostile(f"json {name}", "/v1/captions", as_json({"image": url, **FAST}), JSON)
        yield Hostile(f"chat {name}", "/v1/chat/completions", as_json(chat(url)), JSON)
        yield Hostile(f"mcp {name}", "/mcp", as_json(tool(url)), MCP)


VALUES: tuple[Any, ...] = (
    -1, 2**63, 10**30, 0.5, 1e308, True, None, "", "x", "\x00", "-0", "1e400", "NaN", "x" * 20_000, [], [1], [None],
    {}, {"a": 1}, [[["x"]]], ["x"] * 100, ["y" * 5000], "é\u202e",
)  # fmt: skip
OPTIONS = (
    "detail", "multi_round", "rounds", "strategy", "prompts", "extra_prompts", "max_words", "max_characters", "tidy",
    "seed", "timeout_s", "unknown",
)  # fmt: skip
CHAT_FIELDS = (
    "model", "messages", "n", "seed", "max_tokens", "max_words", "max_characters", "tidy", "stream", "stream_options",
    "tools", "response_format",
)  # fmt: skip


def options() -> Iterator[Hostile]:
    """Every option with every kind of wrong value."""
    for name, (number, value) in itertools.product(OPTIONS, enumerate(VALUES)):
        if name == "timeout_s" and value is True:
            continue
        body = {"image": DATA_URI, "strategy": "basic", "timeout_s": 20, name: value}
        yield Hostile(f"option {name} {number}", "/v1/captions", as_json(body), JSON)
    for name, (number, value) in itertools.product(CHAT_FIELDS, enumerate(VALUES)):
        yield Hostile(f"chat {name} {number}", "/v1/chat/completions", as_json({**chat(DATA_URI), name: value}), JSON)
    for name, (number, value) in itertools.product(("jsonrpc", "method", "params", "id"), enumerate(VALUES)):
        yield Hostile(f"mcp {name} {number}", "/mcp", as_json({**tool(DATA_URI), name: value}), MCP)
    for number, value in enumerate(VALUES):
        yield Hostile(f"mcp image {number}", "/mcp", as_json(tool(value)), MCP)
        yield Hostile(f"mcp detail {number}", "/mcp", as_json(tool(DATA_URI, detail=value)), MCP)
        yield Hostile(f"chat image {number}", "/v1/chat/completions", as_json(chat(value)), JSON)
    words = (
        "detail=huge",
        "detail=low&detail=low",
        "seed=%00",
        "seed=%ff",
        "=",
        "&&&",
        "a" * 5000,
        "prompts=" + "x" * 3000,
    )
    for word in words:
        yield Hostile(f"query {word[:20]}", f"/v1/captions?{word}", PNG, {"content-type": "image/png"})


def headers() -> Iterator[Hostile]:
    """Headers and methods that make no sense."""
    odd = {
        "x-request-id": ("", "a" * 2000, "a b", "\xff", "<script>"),
        "accept": ("", "text/event-stream;q=0", "x" * 2000, "*/*, text/event-stream", ","),
        "content-encoding": ("gzip", "br", "x"),
        "transfer-encoding": ("identity",),
        "authorization": ("Bearer", "Bearer \xff", "Basic eDp5", "x" * 4000),
        "x-api-key": ("", "\xff", "x" * 4000),
        "origin": ("null", "http://evil.example", "x" * 2000),
        "host": ("evil.example", "x" * 300),
        "cookie": ("x" * 4000,),
        "range": ("bytes=0-1",),
        "last-event-id": ("1",),
        "mcp-session-id": ("x", "\xff"),
        "mcp-protocol-version": ("1", "2099-01-01"),
    }
    body = as_json({"image": DATA_URI, **FAST})
    for name, values in odd.items():
        for number, value in enumerate(values):
            yield Hostile(f"header {name} {number}", "/v1/captions", body, {**JSON, name: value})
            yield Hostile(f"mcp header {name} {number}", "/mcp", as_json(tool("x")), {**MCP, name: value})
    paths = (
        "/v1/captions",
        "/v1/captions/batch",
        "/v1/chat/completions",
        "/v1/models",
        "/mcp",
        "/healthz",
        "/docs",
        "/nope",
    )
    for method, path in itertools.product(("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"), paths):
        yield Hostile(f"{method} {path}", path, b"", {}, method)
    for path in (
        "/v1/captions/../../etc/passwd",
        "/%2e%2e/",
        "//",
        "/v1/models/" + "x" * 3000,
        "/v1/models/%00",
        "/\u00e9",
    ):
        yield Hostile(f"path {path[:20]}", path, b"", {}, "GET")


def everything() -> list[Hostile]:
    return [*images(), *bodies(), *urls(), *options(), *headers()]
