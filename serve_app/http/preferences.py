"""How a client would like to be answered (RFC 7240, RFC 9218)."""

from __future__ import annotations

from starlette.datastructures import Headers

RESPOND_ASYNC = "respond-async"


def prefers_async(headers: Headers) -> bool:
    """Whether an id is enough, and the answer may come later (RFC 7240, 4.1)."""
    return RESPOND_ASYNC in ",".join(headers.getlist("prefer")).lower().replace(" ", "").split(",")


def is_background(headers: Headers) -> bool:
    """Whether a `Priority` header names the urgency of background work (RFC 9218, 4.1)."""
    return "u=7" in (member.partition(";")[0].strip() for member in headers.get("priority", "").split(","))
