"""The options of a caption request as flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import typer
from pydantic.fields import FieldInfo

from serve_app.options import Interface, constraints, is_list, offered, signed


def with_options(interface: Interface) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command that takes `**options` a flag for each that the interface offers; what is not given is None."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        return signed(command, {name: _flag(name, field) for name, field in offered(interface).items()})

    return decorate


def sizes(max_image_bytes: int | None, max_image_pixels: int | None) -> dict[str, int]:
    """The limits of an image that were given."""
    given = {"max_image_bytes": max_image_bytes, "max_image_pixels": max_image_pixels}
    return {name: value for name, value in given.items() if value is not None}


CAPTIONER_URL = (
    "root of an OpenAI-compatible API whose --model captions, such as http://vlm:8000/v1; "
    "key: CAPTION_SERVE_CAPTIONER_API_KEY"
)


def engine_of(engine: str, captioner_url: str | None) -> dict[str, str]:
    """The settings of an engine: a URL is one by itself."""
    return {"engine": engine} if captioner_url is None else {"engine": "openai", "captioner_url": captioner_url}


def _flag(name: str, field: FieldInfo) -> Any:
    bounds = constraints(field)
    least: Any = next((each.ge for each in bounds if isinstance(each, annotated_types.Ge)), None)
    most: Any = next((each.le for each in bounds if isinstance(each, annotated_types.Le)), None)
    dashed = f"--{name.replace('_', '-')}"
    names, help_, kind, metavar = [dashed], (field.description or "").replace("`", ""), field.annotation, None
    if is_list(field):
        names, kind, help_ = [dashed.removesuffix("s")], list[str] | None, f"{help_}; may be repeated"
    elif kind is bool:
        names, kind = [f"{dashed}/--no-{dashed[2:]}"], bool | None
    elif choices := [choice for each in get_args(kind) if get_origin(each) is Literal for choice in get_args(each)]:
        kind, metavar = str | None, "|".join(choices)  # an invalid one has the same error at all interfaces
    shown = typer.Option(*names, min=least, max=most, help=help_, metavar=metavar, rich_help_panel="Caption")
    return Annotated[kind, shown]
