"""The tab for one image."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gradio as gr

from serve_app.contract import Description
from serve_app.errors import CaptionServeError
from serve_app.ui import render
from serve_app.ui.files import uploaded
from serve_app.ui.options import OptionControls, options_of
from serve_app.ui.parts import REQUESTS, Tab, TabContext
from serve_app.ui.texts import DEFAULT, text
from serve_app.ui.view import View

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.jpg"))
COPY = """() => {
  const words = document.getElementById("caption"), button = document.getElementById("copy");
  if (!words) return;
  const done = () => { button.classList.add("copied"); setTimeout(() => button.classList.remove("copied"), 1500); };
  const select = () => {
    const range = document.createRange(); range.selectNodeContents(words);
    getSelection().removeAllRanges(); getSelection().addRange(range);
    if (document.execCommand("copy")) done();
  };
  if (navigator.clipboard) navigator.clipboard.writeText(words.textContent).then(done, select); else select();
}"""
_log = logging.getLogger(__name__)


def build(context: TabContext) -> Tab:
    language = context.language
    view = gr.State(View())
    with gr.Row(elem_classes="columns"):
        with gr.Column(min_width=300):
            image = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                buttons=[],
                height=320,
                elem_id="image",
                label="Image",
            )
            samples = gr.Examples(
                [[str(path)] for path in SAMPLES], image, api_visibility="private", cache_examples=False
            )
            controls = OptionControls(prefix="one")
        with gr.Column(min_width=300):
            with gr.Row():
                run = gr.Button("Describe", variant="primary", elem_id="run")
                stop = gr.Button("Stop", visible=False, elem_id="stop")
            shown = gr.HTML(render.result(View(), DEFAULT), elem_id="result")
            copy = gr.Button("Copy", size="sm", visible=False, elem_id="copy")
            how = gr.HTML("", elem_id="how")

    outputs = [shown, view, run, stop, copy, how]

    def show(state: View, lang: str) -> tuple[Any, ...]:
        running = state.status == "running"
        copyable = state.status == "done" and bool((state.result or {}).get("caption"))
        return (
            render.result(state, lang),
            state,
            gr.update(visible=not running),
            gr.update(visible=running),
            gr.update(visible=copyable),
            render.details(state, lang),
        )

    async def describe_image(
        request: gr.Request, payload: Any, lang: str, *chosen: Any
    ) -> AsyncGenerator[tuple[Any, ...], None]:
        state = View()
        try:
            upload = uploaded(payload)
            if upload is None:
                state.fail("no_image")
                yield show(state, lang)
                return
            state.status = "running"
            yield show(state, lang)
            events = context.backend.events(upload.read(), options_of(chosen))
            async with aclosing(context.sessions.run(str(request.session_hash), events)) as running:
                async for event in running:
                    state.add(event)
                    yield show(state, lang)
        except CaptionServeError as error:
            state.fail(error)
        except OSError:
            state.fail("error_upload")
        except Exception:  # the page reports every error
            _log.exception("A request of the page failed")
            state.fail("error_page")
        yield show(View() if state.status == "running" else state, lang)  # still running: it was stopped

    def reset(request: gr.Request, lang: str) -> tuple[Any, ...]:
        context.sessions.leave(str(request.session_hash))
        return show(View(), lang)

    run.click(
        describe_image,
        [image, language, *controls.inputs],
        outputs,
        preprocess=False,
        concurrency_limit=REQUESTS,
        show_progress="hidden",
        api_visibility="private",
    )
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    stop.click(reset, [language], outputs, **quiet)
    image.change(reset, [language], outputs, **quiet)
    language.input(
        lambda state, lang: (render.result(state, lang), render.details(state, lang)),
        [view, language],
        [shown, how],
        **quiet,
    )
    copy.click(None, None, None, js=COPY, api_visibility="private")

    tab = Tab(
        words=[
            (image, lambda lang: {"label": text(lang, "image"), "placeholder": text(lang, "image_drop")}),
            (samples.dataset, lambda lang: {"label": text(lang, "samples")}),
            (run, lambda lang: {"value": text(lang, "run")}),
            (stop, lambda lang: {"value": text(lang, "stop")}),
            (copy, lambda lang: {"value": text(lang, "copy")}),
        ],
        defaults=[(shown, _first_view)],
    )
    controls.join(tab)
    return tab


def _first_view(language: str, _: Description) -> dict[str, Any]:
    return {"value": render.result(View(), language)}
