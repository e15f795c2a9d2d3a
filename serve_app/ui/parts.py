"""What the page and its tabs share."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from pydantic import ValidationError

from serve_app.contract import Description
from serve_app.errors import CaptionServeError
from serve_app.ui.backend import PageBackend
from serve_app.ui.sessions import Sessions

CONCURRENCY = 16
"""Short events, such as a switch of language, that run at once."""
REQUESTS = 64
"""Visitors whose requests run at once; more wait in Gradio's queue."""
DESCRIBE_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)

Words = Callable[[str], dict[str, Any]]
"""Language → the properties of a component that are words."""
Defaults = Callable[[str, Description], dict[str, Any]]
"""Language and service → the properties that depend on what the service offers."""


@dataclass(frozen=True)
class TabContext:
    """What a tab is built over."""

    backend: PageBackend
    language: gr.Radio
    sessions: Sessions = field(default_factory=Sessions)


@dataclass
class Tab:
    """A built tab: which of its components speak, and which depend on the service."""

    words: list[tuple[gr.blocks.Block, Words]] = field(default_factory=list)
    defaults: list[tuple[gr.blocks.Block, Defaults]] = field(default_factory=list)


async def describe(backend: PageBackend) -> Description | None:
    """What the service offers; None while it cannot say."""
    try:
        async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
            return Description.model_validate(await backend.describe())
    except (CaptionServeError, TimeoutError) as error:
        _log.info("The service cannot be described yet: %s", error)
    except (ValidationError, RuntimeError):
        _log.exception("The service's description cannot be read")
    return None
