"""The entry points of `serve run` and `serve deploy`: wiring only."""

from typing import Any

from ray.serve import Application

from serve_app import deployments
from serve_app.args import AppArgs, PageArgs


def build_app(args: dict[str, Any]) -> Application:
    """Builds the service from `AppArgs` given as a mapping. Raises pydantic's `ValidationError`."""
    return deployments.build(AppArgs.model_validate(args))


def build_page(args: dict[str, Any]) -> Application:
    """Builds the web page from `PageArgs` given as a mapping. Raises pydantic's `ValidationError`."""
    return deployments.build_page(PageArgs.model_validate(args))


app = build_app({})
