"""Several images: a bounded number at once, and the results as files."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal

from serve_app.errors import CaptionServeError, TryLater
from serve_app.retry import Retries, retried
from serve_app.ui.backend import PageBackend
from serve_app.ui.files import Upload
from serve_app.ui.render import escape
from serve_app.ui.texts import error_text, text

AT_ONCE = 4
MOST_FILES = 200
TRIES = 4
LONGEST_WAIT_S = 30.0
COLUMNS = ("file", "caption", "characters", "words", "seconds", "error")
_log = logging.getLogger(__name__)


@dataclass
class BatchFile:
    """One image of a batch."""

    name: str
    status: Literal["queued", "in_work", "done", "failed"] = "queued"
    result: dict[str, Any] | None = None
    error: CaptionServeError | str | None = None
    """A key of the page's texts, or what the service raised."""

    def stop(self) -> None:
        """Marks a row that will not be finished."""
        if self.status in ("queued", "in_work"):
            self.status, self.error = "failed", "stopped"

    def error_in(self, language: str) -> str:
        if self.error is None:
            return ""
        return text(language, self.error) if isinstance(self.error, str) else error_text(language, self.error)


async def run(
    backend: PageBackend, uploads: Sequence[Upload], options: dict[str, Any]
) -> AsyncGenerator[list[BatchFile], None]:
    """The rows, each time one of them has changed. Closing the generator ends the work."""
    rows = [BatchFile(upload.name) for upload in uploads]
    changed = asyncio.Event()
    waiting = iter(zip(rows, uploads, strict=True))

    async def worker() -> None:
        for row, upload in waiting:
            row.status = "in_work"
            changed.set()
            await _fill(row, backend, upload, options)
            changed.set()

    work = [asyncio.ensure_future(worker()) for _ in range(AT_ONCE)]
    everything = asyncio.gather(*work, return_exceptions=True)  # they fill rows and raise nothing
    everything.add_done_callback(lambda _: changed.set())
    try:
        yield rows
        while not everything.done():
            await changed.wait()
            changed.clear()
            yield rows
    finally:
        for task in work:
            task.cancel()
        await everything


async def _fill(row: BatchFile, backend: PageBackend, upload: Upload, options: dict[str, Any]) -> None:
    async def caption() -> None:
        async with aclosing(backend.events(upload.read(), options)) as events:
            async for event in events:
                if event["event"] == "result":
                    row.result = event

    def waits(error: CaptionServeError) -> None:
        row.error = error

    try:
        retries = Retries(TRIES - 1, longest_pause_s=LONGEST_WAIT_S, kinds=TryLater)
        await retried(caption, retries, on_retry=waits)
        row.status, row.error = ("done", None) if row.result else ("failed", "error_page")
        return
    except CaptionServeError as error:
        row.error = error
    except OSError:
        row.error = "error_upload"
    except Exception:  # a bad row does not end the others
        _log.exception("An image of a batch failed")
        row.error = "error_page"
    row.status = "failed"


def table(rows: Sequence[BatchFile], language: str) -> str:
    """The rows as HTML."""
    if not rows:
        return f'<div class="empty">{text(language, "batch_empty")}</div>'
    done = sum(row.status in ("done", "failed") for row in rows)
    bar = f'<div class="bar"><i style="width:{round(100 * done / len(rows))}%"></i></div>'
    told = text(language, "done_of", done=done, all=len(rows))
    head = f"<th>{text(language, 'file')}</th><th>{text(language, 'result')}</th>"
    return (
        f'<div role="status">{bar}<p class="told">{told}</p></div><table class="rows"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(_row(row, language) for row in rows)}</tbody></table>"
    )


def _row(row: BatchFile, language: str) -> str:
    match row.status:
        case "done":
            assert row.result is not None
            stats = row.result["stats"]
            figures = f"{stats['words']} {text(language, 'words')} · {_seconds(row.result)} {text(language, 'seconds')}"
            caption = row.result["caption"] or text(language, "no_caption")
            told = f"{escape(caption)}<small>{figures}</small>"
        case "failed":
            told = escape(row.error_in(language))
        case status:
            told = f"{text(language, status)}…"
    return f'<tr class="{row.status}"><td>{escape(row.name)}</td><td>{told}</td></tr>'


def _seconds(result: dict[str, Any]) -> str:
    return f"{result['timings_ms'].get('total', 0.0) / 1000:.1f}"


def as_csv(rows: Sequence[BatchFile], language: str = "en") -> str:
    """The rows for a spreadsheet; no cell of it is taken for a formula."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for row in rows:
        result = row.result or {"caption": "", "stats": {"characters": "", "words": ""}}
        stats, seconds = result["stats"], _seconds(result) if row.result else ""
        cells = [row.name, result["caption"], stats["characters"], stats["words"], seconds, row.error_in(language)]
        writer.writerow([_plain(cell) for cell in cells])
    return out.getvalue()


def as_jsonl(rows: Sequence[BatchFile], language: str = "en") -> str:
    """A line of JSON for each row, with the whole answer."""
    lines = []
    for row in rows:
        answer = None if row.result is None else {key: row.result[key] for key in row.result if key != "event"}
        line = {"file": row.name, "result": answer, "error": row.error_in(language) or None}
        lines.append(json.dumps(line, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def _plain(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
