"""Answers as JSON, as far as one text can fill what a caller describes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serve_app.errors import InvalidOption
from serve_app.http.openai.schemas import ResponseFormat

TEXTS = frozenset(
    (
        "caption",
        "description",
        "alt",
        "alt_text",
        "alttext",
        "text",
        "title",
        "summary",
        "answer",
        "response",
        "content",
    )
)
"""Names of members that stand for the answer's text."""


@dataclass(frozen=True, slots=True)
class Format:
    """The members that the text stands in; none for plain text."""

    members: tuple[str, ...] = ()

    @classmethod
    def of(cls, wanted: ResponseFormat | None, *, question: bool) -> Format:
        """Raises `InvalidOption` if the answer cannot be of the schema."""
        if wanted is None or wanted.type == "text":
            return cls()
        schema = wanted.json_schema.schema_ if wanted.json_schema else {}
        properties = schema.get("properties")
        if wanted.type == "json_object" or not properties:
            return cls(("answer" if question else "caption",))
        required = schema.get("required") or []
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise InvalidOption("response_format.json_schema.schema: this is no JSON schema of an object.")
        fitting = tuple(name for name, kind in properties.items() if name.lower() in TEXTS and _is_string(kind))
        missing = [name for name in required if name not in fitting]
        if missing or not fitting:
            name = f"response_format.json_schema.schema.{missing[0] if missing else 'properties'}"[:120]
            raise InvalidOption(
                f"{name}: an answer is one text; it fills string members named {', '.join(sorted(TEXTS))}."
            )
        return cls(fitting)

    def render(self, text: str) -> str:
        return json.dumps(dict.fromkeys(self.members, text), ensure_ascii=False) if self.members else text


def _is_string(kind: Any) -> bool:
    wanted = kind.get("type", "string") if isinstance(kind, Mapping) else ""
    return wanted == "string" or (isinstance(wanted, list) and "string" in wanted)
