"""The tab for several images."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from serve_app.ui import batch, render
from serve_app.ui.environment import FILES
from serve_app.ui.files import all_uploaded
from serve_app.ui.options import OptionControls, options_of
from serve_app.ui.parts import REQUESTS, Tab, TabContext
from serve_app.ui.texts import DEFAULT, text


def build(context: TabContext) -> Tab:
    language = context.language
    kept = gr.State([])
    with gr.Row(elem_classes="columns"):
        with gr.Column(min_width=300):
            files = gr.File(file_count="multiple", height=220, elem_id="files", label="Images")
            controls = OptionControls(prefix="many")
        with gr.Column(min_width=300):
            with gr.Row():
                run = gr.Button("Describe all", variant="primary", elem_id="run-batch")
                stop = gr.Button("Stop", visible=False, elem_id="stop-batch")
            shown = gr.HTML(batch.table([], DEFAULT), elem_id="rows")
            with gr.Row():
                as_csv = gr.DownloadButton("CSV", size="sm", visible=False, elem_id="csv")
                as_jsonl = gr.DownloadButton("JSONL", size="sm", visible=False, elem_id="jsonl")

    outputs = [shown, kept, run, stop, as_csv, as_jsonl]

    def show(rows: list[batch.BatchFile], lang: str, running: bool) -> tuple[Any, ...]:
        downloads: tuple[Any, Any] = (gr.update(visible=False), gr.update(visible=False))
        if rows and not running:
            directory = Path(tempfile.mkdtemp(dir=FILES))
            sheet, lines = directory / "captions.csv", directory / "captions.jsonl"
            sheet.write_text(batch.as_csv(rows, lang), encoding="utf-8-sig", newline="")
            lines.write_text(batch.as_jsonl(rows, lang), encoding="utf-8")
            downloads = (gr.update(value=str(sheet), visible=True), gr.update(value=str(lines), visible=True))
        table = batch.table(rows, lang)
        return table, rows, gr.update(visible=not running), gr.update(visible=running), *downloads

    async def describe_all(
        request: gr.Request, payload: Any, lang: str, *chosen: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        uploads = all_uploaded(payload)
        if not uploads or len(uploads) > batch.MOST_FILES:
            problem = (
                text(lang, "too_many", most=batch.MOST_FILES, given=len(uploads)) if uploads else text(lang, "no_files")
            )
            yield render.sentence(problem, lang), [], *(gr.update() for _ in outputs[2:])
            return
        rows: list[batch.BatchFile] = []
        work = batch.run(context.backend, uploads, options_of(chosen))
        async with aclosing(context.sessions.run(str(request.session_hash), work)) as running:
            async for rows in running:
                yield show(rows, lang, running=True)
        for row in rows:
            row.stop()
        yield show(rows, lang, running=False)

    def leave(request: gr.Request) -> None:
        context.sessions.leave(str(request.session_hash))

    run.click(
        describe_all,
        [files, language, *controls.inputs],
        outputs,
        preprocess=False,
        concurrency_limit=REQUESTS,
        show_progress="hidden",
        api_visibility="private",
    )
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    stop.click(leave, None, None, **quiet)
    files.clear(leave, None, None, **quiet)
    language.input(lambda rows, lang: batch.table(rows, lang), [kept, language], [shown], **quiet)

    tab = Tab(
        words=[
            (files, lambda lang: {"label": text(lang, "files")}),
            (run, lambda lang: {"value": text(lang, "run_batch")}),
            (stop, lambda lang: {"value": text(lang, "stop")}),
            (as_csv, lambda lang: {"label": text(lang, "csv")}),
            (as_jsonl, lambda lang: {"label": text(lang, "jsonl")}),
        ],
        defaults=[(shown, lambda lang, _: {"value": batch.table([], lang)})],
    )
    controls.join(tab)
    return tab
