"""The web page, over anything that captions."""

from serve_app.ui import environment  # noqa: F401  before anything that imports gradio
from serve_app.ui.backend import PageBackend, PageKeys
from serve_app.ui.page import build_page, mount, page_app

__all__ = ["PageBackend", "PageKeys", "build_page", "mount", "page_app"]
