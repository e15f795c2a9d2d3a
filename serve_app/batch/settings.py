"""What a job is (fixed when it begins) and how it is run (free to change when it goes on)."""

from __future__ import annotations

import json
import string
from collections.abc import Collection
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve_app.args import AppArgs
from serve_app.errors import InvalidOption
from serve_app.limits import Limits
from serve_app.options import parse_options
from serve_app.types import CaptionOptions

SourceKind = Literal["images", "list", "table", "webdataset"]
SinkKind = Literal["parquet", "jsonl", "csv", "sidecar", "webdataset"]

SLOTS = ("caption", "stem", "clauses", "path")
"""Names that a template may use."""


MADE_BY = ("args", "via_handle")
"""Settings that say what makes the captions."""


class JobSettings(BaseModel):
    """Everything that a row depends on. A job that goes on must have the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    source: str
    source_kind: SourceKind
    column: str | None = Field(None, description="table column of paths, URLs or bytes; None: the first known name")
    keep: tuple[str, ...] = Field(
        (),
        description="table columns that are copied to the output, as text; as `kept_…` if it has that column",
    )
    texts_column: str | None = Field(
        None, description="table column with an image's text or texts; one that the image supports stays its caption"
    )
    floor: float = Field(0.5, ge=0, le=1, description="match score that such a text needs")
    sink: SinkKind
    sidecar_suffix: str = ".txt"
    skip_existing: bool = False
    overwrite: bool = False
    exclude: tuple[str, ...] = Field((), description="globs of file names or paths that are no inputs")
    full: bool = Field(
        False, description="variants, rounds, clauses, contested statements, scores and timings besides the caption"
    )
    prefix: str = ""
    suffix: str = ""
    template: str = "{caption}"
    shard_size: int = Field(1000, ge=1, description="inputs of one output file")
    options: dict[str, Any] = Field(default_factory=dict, description="of each caption, as in the HTTP contract")
    args: dict[str, Any] = Field(default_factory=dict, description="AppArgs of the model and the limits of an image")
    via_handle: str | None = Field(None, description="application that captions, instead of engines of the job's own")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_template(self.template)
        if self.skip_existing and self.sink != "sidecar":
            raise InvalidOption("--skip-existing needs sidecars (--to sidecar): other outputs know what they have.")
        if self.overwrite and self.sink != "sidecar":
            raise InvalidOption("--overwrite is for sidecars (--to sidecar): --restart replaces other outputs.")
        if self.overwrite and self.skip_existing:
            raise InvalidOption("--skip-existing and --overwrite exclude each other.")
        if self.exclude and self.source_kind != "images":
            raise InvalidOption("--exclude is for directories and globs of images.")
        if not self.sidecar_suffix.startswith(".") or "/" in self.sidecar_suffix:
            raise InvalidOption("--sidecar-suffix begins with a dot, for example .caption.")
        if (self.column or self.keep) and self.source_kind != "table":
            raise InvalidOption("--column and --keep are for tables (CSV, Parquet, Arrow).")
        if self.texts_column is not None:
            if self.source_kind != "table":
                raise InvalidOption("--texts is for tables (CSV, Parquet, Arrow).")
            args = self.app_args()
            if self.via_handle is None and (args.matcher is None or args.engine == "instant"):
                raise InvalidOption("--texts needs a matcher: name one with --matcher.")
        self.caption_options()
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Table columns that travel with an input."""
        texts = () if self.texts_column is None else (self.texts_column,)
        return tuple(dict.fromkeys((*self.keep, *texts)))

    def app_args(self) -> AppArgs:
        return AppArgs.model_validate(self.args)

    def limits(self) -> Limits:
        return self.app_args().limits()

    def caption_options(self) -> CaptionOptions:
        """Raises `InvalidOption`."""
        return parse_options(dict(self.options), self.limits())

    def difference(self, now: JobSettings, but: Collection[str] = ()) -> str | None:
        """A sentence on the first setting, `but` these, that is another one now, or None."""
        mine, its = json.loads(self.model_dump_json()), json.loads(now.model_dump_json())
        for name, value in mine.items():
            if value != its[name] and name not in but:
                return f"{name} was {value!r} when the job began and is {its[name]!r} now"
        return None


class RunSettings(BaseModel):
    """How the job runs this time; the rows don't depend on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: str
    address: str = "local"
    min_engines: int | None = Field(None, ge=1)
    max_engines: int | None = Field(None, ge=1)
    cpus_per_engine: int | None = Field(None, ge=1)
    batch_size: int = Field(16, ge=1, description="images that travel to an engine together")
    concurrency: int = Field(16, ge=1, description="images in progress, with via_handle")
    window: int = Field(
        250_000,
        ge=1,
        description="inputs of one Ray Data execution, which keeps statistics of every block until it ends; the "
        "engines of the next one load their model again",
    )
    max_errors: int | None = Field(None, ge=0)
    duplicates_window: int = Field(50_000, ge=0, description="distinct images that are remembered; 0: none")
    restart: bool = False
    retry_failed: bool = False
    refresh_outdated: bool = False
    report: bool = True


def check_template(template: str) -> None:
    """Raises `InvalidOption` unless the template has only the known slots."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        template.format(**dict.fromkeys(SLOTS, ""))
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InvalidOption(f"--template takes {', '.join('{' + name + '}' for name in SLOTS)} and text.") from error
    if not set(names) <= set(SLOTS):
        raise InvalidOption(f"--template takes {', '.join('{' + name + '}' for name in SLOTS)} and text.")
