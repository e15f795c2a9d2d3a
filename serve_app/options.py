"""The options of a caption request, declared once: type, bounds, meaning, and which interfaces offer them.

HTTP, Python handles and the client take all options. `Offered` names the interfaces that offer an option besides:

    cli      flags of `caption-serve caption`
    batch    flags of `caption-serve batch`
    mcp      arguments of the tool `caption_image`
    chat     fields of a chat request beyond OpenAI's
    page     controls of the web page

An option has the same name and meaning at all of them. A flag that may be repeated is called by the singular of its
option's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic.fields import FieldInfo

from serve_app.errors import InvalidOption
from serve_app.limits import Limits
from serve_app.types import (
    MAX_ROUNDS,
    MIN_CHARACTERS,
    ROUNDS_BY_DETAIL,
    STRATEGY,
    CaptionOptions,
    Detail,
    Strategy,
)

MAX_SEED = 2**63 - 1
Interface = Literal["cli", "batch", "mcp", "chat", "page"]

M = TypeVar("M", bound=BaseModel)


class Offered:
    """The interfaces that offer an option besides HTTP, handles and the client."""

    def __init__(self, *interfaces: Interface) -> None:
        self.interfaces = frozenset(interfaces)


Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Options(BaseModel):
    """What a caption request may ask for; everything has a default."""

    model_config = ConfigDict(extra="forbid")

    detail: Annotated[Detail | None, Offered("cli", "batch", "mcp", "page")] = Field(
        None, description="low = 1 round, medium = 2, high = 3 (default)"
    )
    multi_round: Annotated[bool | None, Offered("page")] = Field(None, description="false = 1 round")
    rounds: Annotated[int | None, Offered("cli", "batch")] = Field(
        None, ge=1, le=MAX_ROUNDS, description="rounds, instead of `detail`"
    )
    strategy: Annotated[Strategy | None, Offered("cli", "batch", "mcp", "page")] = Field(None, description=STRATEGY)
    prompts: Annotated[list[Prompt] | None, Offered("cli", "batch")] = Field(
        None, min_length=1, description="variant prompts, instead of the presets'"
    )
    extra_prompts: Annotated[list[Prompt] | None, Offered("cli", "batch", "mcp", "chat")] = Field(
        None, description='variant prompts besides the others: beginnings of sentences, as "the weather is"'
    )
    use: Annotated[list[Prompt] | None, Offered("cli", "batch", "mcp", "chat")] = Field(
        None,
        min_length=1,
        description="names of the captioners that take part, where there are several; basic and classic take the first",
    )
    ask: Annotated[bool | None, Offered("cli", "batch", "mcp", "chat")] = Field(
        None,
        description="whether the rounds of `grounded` ask questions about what the caption lacks; by default where a "
        "model answers them",
    )
    questions: Annotated[list[Prompt] | None, Offered("cli", "batch", "mcp", "chat")] = Field(
        None, max_length=16, description='your own, answered into the caption: "is the man wearing a helmet?"'
    )
    seed: Annotated[int | None, Offered("cli", "batch", "mcp", "chat", "page")] = Field(
        None, ge=0, le=MAX_SEED, description="same request and seed, same answer"
    )
    max_words: Annotated[int | None, Offered("cli", "batch", "mcp", "chat", "page")] = Field(
        None,
        ge=1,
        description="most words of the caption: the best supported statements that fit, in whole sentences; "
        "`notices` says so if a single statement is longer",
    )
    max_characters: Annotated[int | None, Offered("cli", "batch", "mcp", "chat")] = Field(
        None, ge=MIN_CHARACTERS, description="most characters of the caption, likewise"
    )
    tidy: Annotated[bool, Offered("cli", "batch", "chat")] = Field(
        True, description="false: basic and classic give their reference's text to the letter"
    )
    timeout_s: Annotated[float | None, Offered("cli", "batch")] = Field(
        None, gt=0, allow_inf_nan=False, description="seconds; then the best caption so far"
    )

    def resolve(self, limits: Limits) -> CaptionOptions:
        """Fills in the defaults. Raises `InvalidOption` beyond the service's limits."""
        values: dict[str, Any] = {name: getattr(self, name, None) for name in CaptionOptions.__dataclass_fields__}
        for name, value in values.items():
            if value is None:
                values[name] = getattr(limits, f"default_{name}", None)
        values["rounds"] = self._rounds(limits)
        prompts, extra_prompts = tuple(self.prompts or ()), tuple(self.extra_prompts or ())
        for name, given in (("prompts", prompts), ("extra_prompts", (*prompts, *extra_prompts))):
            if len(given) > limits.max_prompts:
                raise InvalidOption(f"{name}: {len(given)} were given; at most {limits.max_prompts} are accepted.")
            if any(len(prompt) > limits.max_prompt_characters for prompt in given):
                raise InvalidOption(f"{name}: at most {limits.max_prompt_characters} characters each are accepted.")
        questions = tuple(self.questions or ())
        if any(len(question) > limits.max_prompt_characters for question in questions):
            raise InvalidOption(f"questions: at most {limits.max_prompt_characters} characters each are accepted.")
        lists = {"prompts": prompts, "extra_prompts": extra_prompts, "questions": questions}
        lists["use"] = tuple(dict.fromkeys(self.use or ()))
        resolved = CaptionOptions(**{**values, **lists})
        if resolved.timeout_s > limits.max_timeout_s:
            raise InvalidOption(f"timeout_s: at most {limits.max_timeout_s:g} seconds are accepted.")
        return resolved

    def _rounds(self, limits: Limits) -> int:
        if self.multi_round is False:
            if (self.rounds or 1) > 1:
                raise InvalidOption("multi_round: false means one round, and rounds asks for more.")
            return 1
        return self.rounds or ROUNDS_BY_DETAIL[self.detail or limits.default_detail]


def parse_options(values: dict[str, Any], limits: Limits) -> CaptionOptions:
    """Validates options from any interface. Raises `InvalidOption` that names the first invalid one."""
    return validated(Options, values).resolve(limits)


def validated(model: type[M], values: Mapping[str, Any]) -> M:
    """The values as `model`. Raises `InvalidOption` that names the first invalid one."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"]))[:80] or "options"
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise InvalidOption(f"{name}: there is no such option; the options are {known}.") from error
        raise InvalidOption(f"{name}: {first['msg']}.") from error


def offered(interface: Interface) -> dict[str, FieldInfo]:
    """The options that an interface offers, in the order of their declaration."""
    return {
        name: field
        for name, field in Options.model_fields.items()
        if any(isinstance(each, Offered) and interface in each.interfaces for each in field.metadata)
    }


def constraints(field: FieldInfo) -> list[Any]:
    """The bounds of an option, as pydantic has them."""
    return [each for each in field.metadata if not isinstance(each, Offered)]


def is_list(field: FieldInfo) -> bool:
    return any(getattr(kind, "__origin__", None) is list for kind in (field.annotation, *get_args(field.annotation)))


def signed(
    function: Callable[..., Any], parameters: Mapping[str, Any], *, required: bool = False, returns: Any = None
) -> Callable[..., Any]:
    """Gives a function that takes `**options` the parameters themselves, each with its annotation, and None by default
    if none is `required`: what reads signatures then knows them. `returns` replaces its return annotation."""
    signature = inspect.signature(function, eval_str=True)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    kind, default = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.empty if required else None
    more = [inspect.Parameter(name, kind, default=default, annotation=each) for name, each in parameters.items()]
    result = returns or signature.return_annotation
    function.__signature__ = inspect.Signature([*own, *more], return_annotation=result)  # type: ignore[attr-defined]
    function.__annotations__ = {each.name: each.annotation for each in (*own, *more)}
    if result is not inspect.Signature.empty:
        function.__annotations__["return"] = result
    return function


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given: neither None or an empty list nor the option's default."""
    return {
        name: value
        for name, value in options.items()
        if value is not None and value != [] and value != Options.model_fields[name].default
    }


def lists(models: Iterable[type[BaseModel]]) -> frozenset[str]:
    """Names of the fields that are lists."""
    return frozenset(name for model in models for name, field in model.model_fields.items() if is_list(field))
