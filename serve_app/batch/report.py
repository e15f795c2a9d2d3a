"""A page to look at before a dataset is trusted: counts, lengths, scores, and images with their captions."""

from __future__ import annotations

import base64
import html
import io
from collections import Counter
from collections.abc import Mapping, Sequence

from serve_app.batch import index, state
from serve_app.batch.folder import Folder
from serve_app.batch.intake import read_all
from serve_app.batch.marks import WORDS_BIN, Mark
from serve_app.batch.state import Plan
from serve_app.errors import CaptionServeError
from serve_app.limits import Limits
from serve_app.service import images

NAME = "_job/report.html"
SHOWN = 60
"""Images of the page."""
THUMBNAIL = 240
"""Pixels of its longer side."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1100px; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } td { padding: .1rem 1rem .1rem 0; }
.row { display: grid; grid-template-columns: 250px 1fr; gap: 1.2rem; border-top: 1px solid #ddd; padding: 1rem 0; }
.row img { max-width: 240px; border-radius: 4px; } .path { color: #777; font-size: .85rem; word-break: break-all; }
.error { color: #a22; } .bar { background: #4a7; height: .8rem; }
.empty { background: #eee; width: 240px; height: 120px; }
@media (max-width: 600px) { .row { grid-template-columns: 1fr; } }
"""


def write(folder: Folder, plan: Plan) -> None:
    """Makes the page from the finished shards. The same job has the same page."""
    folder.write(NAME, _page(folder, plan, state.done_marks(folder)).encode())


def _page(folder: Folder, plan: Plan, marks: Sequence[tuple[int, Mark]]) -> str:
    reasons, words, scores = Counter[str](), Counter[str](), Counter[str]()
    for _, mark in marks:
        reasons.update(mark.reasons)
        words.update(mark.words)
        scores.update(mark.scores)
    reasons -= plan.retried
    captioned = sum(mark.captioned for _, mark in marks)
    counts = {
        "inputs": plan.inputs,
        "captioned": captioned,
        "of these duplicates": sum(mark.reused for _, mark in marks),
        **{f"failed: {reason}": count for reason, count in reasons.most_common()},
        **{f"left alone: {word}": count for word, count in plan.other.items()},
    }
    starts = sorted(map(int, words))
    bins = range(starts[0], starts[-1] + 1, WORDS_BIN) if starts else ()
    lengths = {f"{start}–{start + WORDS_BIN - 1}": words[str(start)] for start in bins}
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Captions</title><style>{_STYLE}</style><h1>Captions of {html.escape(plan.settings.source)}</h1>"
        f"{_table(counts)}<h2>Words of a caption</h2>{_bars(lengths)}"
        + (f"<h2>Scores of clauses</h2>{_bars(dict(sorted(scores.items())))}" if scores else "")
        + "<h2>A sample</h2>"
        + "".join(_examples(folder, plan, marks))
    )


def _examples(folder: Folder, plan: Plan, marks: Sequence[tuple[int, Mark]]) -> list[str]:
    """Rows of shards that lie evenly over the job."""
    wanted = max(1, SHOWN // max(1, len(marks[0][1].sample))) if marks else 0
    step = max(1, len(marks) // wanted) if wanted else 1
    shown = []
    for shard, mark in marks[::step][:wanted]:
        inputs = index.load(folder, shard)
        found = read_all([inputs[row["place"]] for row in mark.sample], plan.settings)
        for row, data in zip(mark.sample, found, strict=True):
            picture = _thumbnail(data, plan.settings.limits()) if isinstance(data, bytes) else ""
            text = row["caption"] if row["caption"] is not None else row["error"]
            kind = "caption" if row["caption"] is not None else "error"
            shown.append(
                f"<div class=row><div>{picture or '<div class=empty></div>'}</div><div>"
                f"<div class={kind}>{html.escape(text)}</div>"
                f"<div class=path>{html.escape(row['path'])}</div></div></div>"
            )
    return shown


def _thumbnail(data: bytes, limits: Limits) -> str:
    """As the model saw it: upright, on white, 8 bits a channel."""
    try:
        file = io.BytesIO()
        images.thumbnail(data, limits, THUMBNAIL).save(file, "JPEG", quality=80)
    except CaptionServeError:  # a broken image has its row, and no picture
        return ""
    return f"<img alt='' src='data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def _table(counts: Mapping[str, int]) -> str:
    rows = "".join(f"<tr><td>{html.escape(name)}<td>{count:,}" for name, count in counts.items())
    return f"<table>{rows}</table>"


def _bars(counts: Mapping[str, int]) -> str:
    most = max(counts.values(), default=1)
    rows = "".join(
        f"<tr><td>{html.escape(name)}<td style='width:400px'>"
        f"<div class=bar style='width:{100 * count / most:.0f}%'></div><td>{count:,}"
        for name, count in counts.items()
    )
    return f"<table>{rows}</table>"
