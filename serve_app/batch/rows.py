"""The row of an input: its caption, or what was wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel

from serve_app.batch.inputs import Input
from serve_app.batch.settings import JobSettings
from serve_app.contract import CaptionBody
from serve_app.errors import CaptionServeError

Row = Mapping[str, Any]
"""What the output has of one image."""

_TEXT = pa.string()
_PLAIN: Mapping[Any, pa.DataType] = {str: _TEXT, int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _column(kind: Any) -> pa.DataType:
    """The column type of one of the contract's types. Any column may hold nulls."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return pa.struct([(name, _column(field.annotation)) for name, field in kind.model_fields.items()])
    if get_origin(kind) is Literal:
        return _TEXT
    inner = _column(next(part for part in get_args(kind) if part is not type(None)))
    return pa.list_(inner) if get_origin(kind) is list else inner


_FULL = {
    name: _column(CaptionBody.model_fields[name].annotation)
    for name in ("variants", "rounds", "clauses", "contested", "answers", "degraded", "notices", "seed", "model")
} | {"timings_ms": _TEXT}
"""Columns of `full`; `timings_ms` is JSON, because its keys depend on the strategy."""


def schema(settings: JobSettings) -> pa.Schema:
    """Columns of the output."""
    own = _own(settings)
    return pa.schema([*own, *((name, _TEXT) for name in kept_names(settings).values())])


def kept_names(settings: JobSettings) -> dict[str, str]:
    """The output's name for each kept column of the source: its own, or `kept_…` if the output has a column of it."""
    names = {name for name, _ in _own(settings)}
    kept = {}
    for column in settings.keep:
        name = column
        while name in names:
            name = f"kept_{name}"
        names.add(name)
        kept[column] = name
    return kept


def _own(settings: JobSettings) -> list[tuple[str, pa.DataType]]:
    fields: list[Any] = [("path", _TEXT), ("caption", _TEXT), ("error", _TEXT), ("reason", _TEXT)]
    fields += [("digest", _TEXT), ("fingerprint", _TEXT)]
    if settings.full:
        fields += list(_FULL.items())
    if settings.texts_column is not None:
        fields += [("source", _TEXT), ("score", pa.float64())]
    return fields


def captioned(item: Input, body: Mapping[str, Any], digest: str, settings: JobSettings) -> dict[str, Any]:
    """The row of an image that was captioned; `body` is that of the HTTP contract."""
    row = _base(item, settings)
    row.update(caption=render(item, body, settings), digest=digest, fingerprint=body["fingerprint"])
    if settings.texts_column is not None:
        row["source"] = "new"
    if settings.full:
        row |= {name: body.get(name) for name in _FULL}  # an older service may lack some
        row["timings_ms"] = json.dumps(body["timings_ms"])
    return row


def kept(item: Input, text: str, score: float, digest: str, settings: JobSettings) -> dict[str, Any]:
    """The row of an image whose own text is kept unchanged."""
    row = _base(item, settings)
    row.update(caption=text, digest=digest, source="existing", score=score)
    return row


def texts_of(item: Input, settings: JobSettings) -> list[str]:
    """The texts that the input brought, without empty ones."""
    if settings.texts_column is None or not item.kept:
        return []
    value = json.loads(item.kept).get(settings.texts_column)
    found = value if isinstance(value, list) else [value]
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]


def failed(item: Input, reason: str, error: str, settings: JobSettings) -> dict[str, Any]:
    """The row of an input that has no caption: a word to count by, and a sentence."""
    row = _base(item, settings)
    row.update(error=error, reason=reason)
    return row


def reason_of(error: CaptionServeError) -> str:
    """`invalid_image` for `InvalidImage`."""
    return error.slug.replace("-", "_")


def render(item: Input, body: Mapping[str, Any], settings: JobSettings) -> str:
    """The caption as the output has it: put into the template, between prefix and suffix."""
    slots = {
        "caption": body["caption"],
        "stem": item.stem,
        "path": item.path,
        "clauses": "; ".join(clause["text"] for clause in body["clauses"]),
    }
    return f"{settings.prefix}{settings.template.format(**slots)}{settings.suffix}"


def table(rows: Sequence[Mapping[str, Any]], settings: JobSettings) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema(settings))


def of_table(table: pa.Table) -> list[Row]:
    """The rows of a table of `schema`."""
    found: list[Row] = table.to_pylist()
    return found


def of_cells(cells: Mapping[str, str], settings: JobSettings) -> Row:
    """A row as CSV has it, where null and the empty text are one."""
    kinds = schema(settings)
    return {name: _value(text, kinds.field(name).type) for name, text in cells.items()}


def _value(text: str, kind: pa.DataType) -> Any:
    if not text:
        return None
    return text if kind == _TEXT else json.loads(text)


def _base(item: Input, settings: JobSettings) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(schema(settings).names)
    row["path"] = item.path
    kept = json.loads(item.kept) if item.kept else {}
    for column, name in kept_names(settings).items():
        value = kept.get(column)
        row[name] = value if value is None or isinstance(value, str) else json.dumps(value)
    return row
