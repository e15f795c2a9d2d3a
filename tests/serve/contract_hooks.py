"""Teaches schemathesis the bodies that it cannot make by itself."""

from __future__ import annotations

import json

import schemathesis
from hypothesis import strategies as st

from tests.pictures import encoded, hostile, picture

IMAGES = [encoded(picture(), kind) for kind in ("PNG", "JPEG", "WEBP")] + [
    data for data, _ in hostile().values() if len(data) < 100_000
]


@schemathesis.serializer("image/*", "image/png")
def as_it_is(ctx: schemathesis.SerializationContext, value: object) -> object:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


schemathesis.openapi.format("binary", st.sampled_from(IMAGES))
schemathesis.openapi.media_type("image/*", st.sampled_from(IMAGES))


@schemathesis.deserializer("application/x-ndjson")
def lines(ctx: schemathesis.DeserializationContext, response: schemathesis.Response) -> object:
    """The first line: the schema is that of one."""
    return json.loads(response.content.splitlines()[0])
