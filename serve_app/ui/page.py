"""The page: its frame, its languages, and its mounting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from serve_app.args import PageArgs
from serve_app.contract import Description
from serve_app.limits import Limits
from serve_app.ui import batch_tab, caption_tab, environment, render, tasks_tab
from serve_app.ui.backend import PageBackend
from serve_app.ui.parts import CONCURRENCY, Tab, TabContext, Words, describe
from serve_app.ui.texts import DEFAULT, LANGUAGES, language_of, text

TABS: tuple[tuple[str, Callable[[TabContext], Tab], str | None], ...] = (
    ("tab_caption", caption_tab.build, None),
    ("tab_batch", batch_tab.build, None),
    ("tab_answers", tasks_tab.build_answers, "answers"),
    ("tab_matches", tasks_tab.build_matches, "matches"),
)
"""Title's key in the page's texts, what builds the tab, and the task that it needs."""
MOST_WAITING = 500
"""Requests in Gradio's queue; more are rejected."""
KEEP_FILES_S = 3600
ICON = (
    """<link rel="icon" href="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'>"""
    """<rect width='8' height='8' rx='2' fill='%230f766e'/><path d='M2 3h4M2 5h3' stroke='white'/></svg>">"""
)
SPEAK = """(language) => {
  document.documentElement.lang = language === "zh" ? "zh-CN" : language;
  const heading = document.querySelector("header.head h1");
  if (heading) document.title = heading.textContent;
}"""


class Page(gr.Blocks):
    """Blocks that take no file but those that were uploaded."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> list[Any]:
        if names_remote_file(inputs):
            raise gr.Error("The page fetches no files.")
        prepared: list[Any] = await super().preprocess_data(block_fn, inputs, *rest, **named)
        return prepared


def names_remote_file(value: Any) -> bool:
    """Whether a forged payload would have the server download something."""
    if isinstance(value, dict):
        return "://" in str(value.get("path")) or any(map(names_remote_file, value.values()))
    return isinstance(value, list) and any(map(names_remote_file, value))


def build_page(backend: PageBackend) -> gr.Blocks:
    """The page over a backend, which may still be starting."""
    blocks: gr.Blocks = Page(
        title=text(DEFAULT, "title"), analytics_enabled=False, delete_cache=(KEEP_FILES_S // 4, KEEP_FILES_S)
    )
    with blocks:
        with gr.Row(elem_classes="top"):
            head = gr.HTML(render.header(DEFAULT, ""), elem_id="head")
            language = gr.Radio(
                [(name, code) for code, name in LANGUAGES.items()],
                value=DEFAULT,
                show_label=False,
                container=False,
                elem_id="language",
                scale=0,
                min_width=180,
            )
        context = TabContext(backend, language)
        whole = Tab()
        with gr.Tabs():
            for key, build, task in TABS:
                with gr.Tab(text(DEFAULT, key), elem_id=key, visible=task is None) as shown:
                    tab = build(context)
                if task is not None:
                    whole.defaults.append((shown, tasks_tab.deployed(task)))
                whole.words += [(shown, _title(key)), *tab.words]
                whole.defaults += tab.defaults
        _speak(blocks, context, head, whole)
    blocks.queue(default_concurrency_limit=CONCURRENCY, max_size=MOST_WAITING, api_open=False)
    return blocks


def _title(key: str) -> Words:
    return lambda language: {"label": text(language, key)}


def _speak(blocks: gr.Blocks, context: TabContext, head: gr.HTML, tab: Tab) -> None:
    """Sets up the language, at first that of the browser, and what the service offers."""
    backend, language = context.backend, context.language
    model = gr.State(None)
    outputs = list(dict.fromkeys(block for block, _ in [*tab.words, *tab.defaults]))

    def update(lang: str, service: Description | None) -> list[Any]:
        changes: dict[Any, dict[str, Any]] = {block: {} for block in outputs}
        if service is not None:
            for block, default in tab.defaults:
                changes[block] |= default(lang, service)
        for block, words in tab.words:
            changes[block] |= words(lang)
        return [gr.update(**changes[block]) for block in outputs]

    async def load(request: gr.Request) -> list[Any]:
        lang = language_of(request.headers.get("accept-language"))
        service = await describe(backend)
        if service is not None:
            blocks.max_file_size = service.max_image_bytes
        name = service.model if service is not None else None
        return [lang, render.header(lang, name), name, *update(lang, service)]

    def switch(lang: str, name: str | None) -> list[Any]:
        return [render.header(lang, name), *update(lang, None)]

    def leave(request: gr.Request) -> None:
        context.sessions.leave(str(request.session_hash))

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
    blocks.load(load, None, [language, head, model, *outputs], **quiet)
    language.input(switch, [language, model], [head, *outputs], **quiet)
    head.change(None, [language], None, js=SPEAK, api_visibility="private")
    blocks.unload(leave)


def mount(blocks: gr.Blocks, root_path: str) -> FastAPI:
    """The application that serves the page below `root_path`."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=[gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("monospace")],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_title_text_color="*neutral_600",
    )
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None, lifespan=environment.lifespan),
        blocks,
        path="",
        root_path=root_path,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=Limits().max_image_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        head=ICON,
        css_paths=Path(__file__).parent / "style.css",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    # Gradio checks uploads and what it serves only for pages that it launched itself.
    blocks.has_launched = True
    blocks.is_running = True
    return app


def page_app(backend: PageBackend, args: PageArgs) -> FastAPI:
    """The page without what its deployment wraps it in."""
    return mount(build_page(backend), args.root_path)
