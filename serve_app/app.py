"""The entry point of `serve run` and `serve deploy`: wiring only."""

from typing import Any

from ray.serve import Application

from serve_app.args import AppArgs
from serve_app.deployments import build


def build_app(args: dict[str, Any]) -> Application:
    """Builds the application from `AppArgs` given as a mapping. Raises pydantic's `ValidationError`."""
    return build(AppArgs.model_validate(args))


app = build_app({})
