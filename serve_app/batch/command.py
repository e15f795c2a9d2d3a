"""The command `caption-serve batch`: from words to settings, and from a summary to an exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from serve_app.batch import report, sources, state
from serve_app.batch.folder import Folder, reason_of
from serve_app.batch.job import Summary, run_job
from serve_app.batch.names import shown
from serve_app.batch.progress import duration
from serve_app.batch.rehearsal import Rehearsal, rehearse
from serve_app.batch.settings import JobSettings, RunSettings, SinkKind
from serve_app.errors import CaptionServeError, InvalidOption, ModelError

ALL, SOME_FAILED, REFUSED, ALL_FAILED, STOPPED = 0, 1, 2, 3, 4
"""Exit codes; STOPPED: too many errors, storage that failed, or a cluster that was lost: the job can go on."""
INTERRUPTED = 130

_SINK_OF: Mapping[str, SinkKind] = {".parquet": "parquet", ".jsonl": "jsonl", ".csv": "csv", ".tar": "webdataset"}


def settings_of(source: str, out: str, given: Mapping[str, Any]) -> tuple[JobSettings, RunSettings]:
    """Raises `InvalidOption` that names the first offending option."""
    values = {name: value for name, value in given.items() if value is not None}
    for name in (source, out):
        if shown(name) != name:
            raise InvalidOption(f"{shown(name)}: the name of a source or an output is UTF-8.")
    sink = values.pop("sink", None) or _SINK_OF.get(os.path.splitext(out.rstrip("/"))[1], "parquet")
    kind = values.pop("source_kind", None) or sources.kind_of(source)
    if "://" not in source:
        source = os.path.expanduser(source)
    run = {name: values.pop(name) for name in RunSettings.model_fields if name in values}
    try:
        return (
            JobSettings.model_validate({"source": source, "source_kind": kind, "sink": sink, **values}),
            RunSettings.model_validate({"out": out, **run}),
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "settings"
        raise InvalidOption(f"--{name.replace('_', '-')}: {first['msg']}.") from error


def main(source: str, out: str, given: Mapping[str, Any], dry_run: bool) -> int:
    """Runs the job or its rehearsal and returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings, run = settings_of(source, out, given)
        settings.app_args()
        if dry_run:
            return _tell_plan(rehearse(settings, run), settings, run)
        summary = run_job(settings, run)
    except (InvalidOption, ModelError, ValidationError) as error:
        _say(error.message if isinstance(error, CaptionServeError) else str(error.errors()[0]["msg"]))
        return REFUSED
    except KeyboardInterrupt:
        _say("Interrupted. The same command goes on from here.")
        return INTERRUPTED
    except OSError as error:
        _say(f"The storage failed: {reason_of(error)}. The same command goes on from here.")
        return STOPPED
    except CaptionServeError as error:
        _say(f"{error.message} The same command goes on from here.")
        return STOPPED
    return _tell(summary, run)


def _tell(summary: Summary, run: RunSettings) -> int:
    tally, folder = summary.tally, Folder(run.out)
    plan = state.load_plan(folder)
    left_alone = dict(plan.other) if plan is not None else {}
    body = {
        "inputs": tally.total,
        "captioned": tally.captioned,
        "duplicates": tally.reused,
        "failed": tally.failed,
        "reasons": dict(+tally.reasons),
        "left_alone": left_alone,
        "existing": plan.existing if plan is not None else 0,
        "seconds": round(summary.seconds, 1),
        "rows_of_this_run": tally.here,
        "finished": summary.finished,
    }
    folder.write(f"{state.JOB}/summary.json", json.dumps(body, indent=1).encode())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in (+tally.reasons).most_common())
    _say(
        f"{tally.total:,} inputs: {tally.captioned:,} captioned"
        + (f" ({tally.reused:,} of them duplicates)" if tally.reused else "")
        + f", {tally.failed:,} failed"
        + (f" ({reasons})" if reasons else "")
        + f". {duration(summary.seconds)}, {tally.here / max(summary.seconds, 1e-9):.1f} images/s."
    )
    if left_alone:
        _say(_left_alone(left_alone))
    if not summary.finished:
        return STOPPED
    if run.report and plan is not None:
        report.write(folder, plan)
        _say(f"A sample to look at: {run.out.rstrip('/')}/{report.NAME}")
    if not tally.failed:
        return ALL
    return SOME_FAILED if tally.captioned else ALL_FAILED


def _tell_plan(plan: Rehearsal, settings: JobSettings, run: RunSettings) -> int:
    count = f"{plan.inputs:,}" if plan.counted_all else f"more than {plan.inputs:,}"
    print(f"Source: {settings.source} ({settings.source_kind}), {count} inputs")
    if plan.other:
        print(_left_alone(plan.other))
    print(f"Output: {run.out} ({settings.sink}, {settings.shard_size:,} inputs a shard)")
    print(f"Options: {json.dumps({**dataclasses.asdict(settings.caption_options())}, default=str)}")
    if plan.rate is None:
        print(f"None of the sample could be captioned: {plan.caption or 'there is none.'}")
        return ALL_FAILED
    seconds = plan.inputs / (plan.rate * plan.engines)
    print(f"Estimate: {plan.rate:.1f} images/s of an engine, {plan.engines} engines: {duration(seconds)}")
    print(f"For example: {plan.caption}")
    if plan.failed:
        print(f"{plan.failed} images of the sample failed.")
    return ALL


def _left_alone(other: Mapping[str, int]) -> str:
    return "Left alone: " + ", ".join(f"{number:,} {word}" for word, number in other.items())


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
