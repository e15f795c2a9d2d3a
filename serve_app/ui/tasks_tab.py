"""The tabs for questions and for matching: an image, some words, an answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from serve_app.contract import Description
from serve_app.errors import CaptionServeError
from serve_app.tasks import ANSWERS, MATCHES
from serve_app.ui import render
from serve_app.ui.files import uploaded
from serve_app.ui.parts import REQUESTS, Tab, TabContext
from serve_app.ui.texts import DEFAULT, error_text, text

_log = logging.getLogger(__name__)

Ask = Callable[[bytes, str, str], Awaitable[str]]
"""Image, the words of the box and the language → what is shown, as HTML."""


def build_answers(context: TabContext) -> Tab:
    """One question about one image."""

    async def ask(image: bytes, question: str, lang: str) -> str:
        return render.answered(await context.backend.ask(ANSWERS, image, question), lang)

    return _build(context, "question", 1, ask)


def build_matches(context: TabContext) -> Tab:
    """Several texts, one a line, against one image."""

    async def ask(image: bytes, lines: str, lang: str) -> str:
        texts = [line for line in lines.splitlines() if line.strip()]
        return render.matched((await context.backend.ask(MATCHES, image, texts))["matches"], lang)

    return _build(context, "texts", 5, ask)


def _build(context: TabContext, name: str, lines: int, ask: Ask) -> Tab:
    language = context.language
    with gr.Row(elem_classes="columns"):
        with gr.Column(min_width=300):
            image = gr.Image(
                type="filepath",
                image_mode=None,
                sources=["upload", "clipboard"],
                buttons=[],
                height=320,
                elem_id=f"{name}-image",
            )
            box = gr.Textbox(lines=lines, elem_id=name)
            run = gr.Button(variant="primary", elem_id=f"{name}-run")
        with gr.Column(min_width=300):
            shown = gr.HTML(render.note(text(DEFAULT, f"{name}_empty")), elem_id=f"{name}-result")

    async def answer(payload: Any, words: str, lang: str) -> str:
        try:
            upload = uploaded(payload)
            if upload is None:
                return render.sentence(text(lang, "no_image"), lang)
            if not words.strip():
                return render.sentence(text(lang, f"no_{name}"), lang)
            return await ask(upload.read(), words, lang)
        except CaptionServeError as error:
            return render.sentence(error_text(lang, error), lang)
        except OSError:
            return render.sentence(text(lang, "error_upload"), lang)
        except Exception:  # the page reports every error
            _log.exception("A request of the page failed")
            return render.sentence(text(lang, "error_page"), lang)

    events: dict[str, Any] = {
        "preprocess": False,
        "concurrency_limit": REQUESTS,
        "show_progress": "minimal",
        "api_visibility": "private",
    }
    run.click(answer, [image, box, language], [shown], **events)
    if lines == 1:
        box.submit(answer, [image, box, language], [shown], **events)
    return Tab(
        words=[
            (image, lambda lang: {"label": text(lang, "image"), "placeholder": text(lang, "image_drop")}),
            (box, lambda lang: {"label": text(lang, name), "placeholder": text(lang, f"{name}_example")}),
            (run, lambda lang: {"value": text(lang, f"{name}_run")}),
        ],
        defaults=[(shown, lambda lang, _: {"value": render.note(text(lang, f"{name}_empty"))})],
    )


def deployed(task: str) -> Callable[[str, Description], dict[str, Any]]:
    """Shows a tab only if the service has the task."""
    return lambda _, service: {"visible": task in service.tasks}
