"""The options of a caption request as flags."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import typer
from pydantic import ValidationError
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


CAPTIONER = (
    "NAME=MODEL: one of several captioners, instead of --model; NAME=MODEL@URL: a model behind an OpenAI-compatible "
    "API, such as vlm=qwen@http://vlm:8000/v1; may be repeated"
)


def captioners_of(
    captioners: list[str] | None, model: str, engine: str, revision: str | None, captioner_url: str | None
) -> dict[str, Any]:
    """The settings of what captions: one model, or several captioners. Raises `typer.BadParameter`."""
    if not captioners:
        return {"model": model, **({"revision": revision} if revision else {}), **_engine_of(engine, captioner_url)}
    if captioner_url is not None or revision is not None:
        raise typer.BadParameter("goes without --captioner-url and --revision", param_hint="--captioner")
    return {"captioners": tuple(map(_captioner, captioners))}


def _captioner(words: str) -> dict[str, Any]:
    name, _, rest = words.partition("=")
    model, at, url = rest.partition("@http")
    if not name or not model:
        raise typer.BadParameter(f"{words!r} is not NAME=MODEL or NAME=MODEL@URL", param_hint="--captioner")
    return {"name": name, "model": model, **_engine_of("decode", f"http{url}" if at else None)}


def _engine_of(engine: str, captioner_url: str | None) -> dict[str, str]:
    """The settings of an engine: a URL is one by itself."""
    return {"engine": engine} if captioner_url is None else {"engine": "openai", "captioner_url": captioner_url}


def models_of(captioners: Mapping[str, Any]) -> list[str]:
    """The models of those settings."""
    return [captioners["model"]] if "model" in captioners else [each["model"] for each in captioners["captioners"]]


def problem_of(error: ValidationError) -> str:
    """A sentence on the first setting that is wrong."""
    problem = error.errors()[0]
    told = str(problem["msg"]).removeprefix("Value error, ")
    names = [str(part) for part in problem["loc"] if "[" not in str(part)]  # without the members of a union
    if problem["type"] == "literal_error":
        return f"There is no {names[-1]} {problem['input']!r}; see --help."
    return f"{'.'.join(names)}: {told}.".removeprefix(": ")


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
