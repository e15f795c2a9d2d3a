"""The API's description: what FastAPI cannot see, with examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serve_app.contract import (
    AnswerEvent,
    BatchLine,
    ErrorEvent,
    ExtensionEvent,
    MergeEvent,
    Problem,
    ResultEvent,
    RoundEvent,
    StartEvent,
    VariantEvent,
)

TEXT = """Detailed image captions that say what the image supports: several prompts in parallel, merged clause by clause
and refined in rounds. Where their models run, also answers to questions, matching and filtering of texts, and vectors.

Errors are problem documents (RFC 9457) whose `detail` is one sentence. `x-request-id` is taken from the request, or
made, and sent back. Answers are the same for the same image, options and seed.
"""

EVENTS = (StartEvent, VariantEvent, MergeEvent, ExtensionEvent, AnswerEvent, RoundEvent, ResultEvent, ErrorEvent)
REFERENCE = "#/components/schemas/"


def event_stream(description: str) -> dict[str, Any]:
    """Schema of an event stream: that of one of its events, as OpenAPI's tools read it."""
    properties = {"event": {"type": "string"}, "data": {"type": "string"}}
    return {"type": "object", "description": description, "properties": properties, "required": ["data"]}


PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel: an example that runs."""

CAPTION = {
    "id": "5f0c1f9c",
    "model": "demo",
    "caption": "A hamburger in the top left and a candle in the top right.",
    "stats": {"characters": 58, "words": 13},
    "variants": [
        {"prompt": "a photography of", "text": "A hamburger in the top left", "captioner": "demo", "score": 0.9813},
        {
            "prompt": "a detailed photography of",
            "text": "A candle in the top right",
            "captioner": "demo",
            "score": 0.9704,
        },
    ],
    "rounds": [],
    "clauses": [
        {
            "text": "A hamburger in the top left",
            "start": 0,
            "end": 27,
            "statement": "There is a hamburger in the top left.",
            "score": 0.936,
            "source": {"kind": "variant", "index": 1, "captioner": "demo", "prompt": "a photography of"},
            "whole": False,
        },
        {
            "text": "a candle in the top right",
            "start": 32,
            "end": 57,
            "statement": "There is a candle in the top right.",
            "score": 0.9284,
            "source": {"kind": "variant", "index": 2, "captioner": "demo", "prompt": "a detailed photography of"},
            "whole": False,
        },
    ],
    "contested": [
        {
            "text": "There is a lamp in the top right.",
            "score": 0.0312,
            "against": "There is a candle in the top right.",
            "against_score": 0.9284,
        }
    ],
    "degraded": [],
    "notices": [],
    "seed": 0,
    "fingerprint": "1.5b0c7f21.9d3e6a04.c1f2a7be",
    "timings_ms": {"intake": 1.3, "variants": 306.3, "merge": 0.1, "total": 307.7},
}
EVENT_EXAMPLE = (
    'event: start\ndata: {"id":"5f0c1f9c","model":"demo","strategy":"grounded","prompts":["a photography of"],'
    '"captioners":["demo"],"rounds":1,"seed":0}\n\nevent: variant\ndata: {"index":1,"prompt":"a photography of",'
    '"captioner":"demo","text":"A hamburger in the top left","score":null}\n\n'
)


def describe(app: FastAPI, *, requests: Sequence[type[BaseModel]], keys_needed: bool) -> None:
    """Completes what `app.openapi()` returns: `requests`, events, batch lines, problems and API keys."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate(), requests, keys_needed)
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(schema: dict[str, Any], requests: Sequence[type[BaseModel]], keys_needed: bool) -> None:
    models: list[Any] = [(model, "serialization") for model in (*EVENTS, BatchLine, Problem)]
    models += [(model, "validation") for model in requests]
    _, definitions = models_json_schema(models, ref_template=REFERENCE + "{model}")
    components = schema.setdefault("components", {})
    components["schemas"] = {**definitions["$defs"], **components.get("schemas", {})}
    if keys_needed:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
        }
        schema["security"] = [{"bearer": []}, {"key": []}]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if path in ("/healthz", "/readyz"):
                operation["security"] = []
