"""Each option of a caption is declared in `serve_app.options`; here every interface is held against the declaration."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer
from mcp.client.client import Client

from serve_app import client
from serve_app.cli.main import app as cli
from serve_app.client.options import CaptionArguments as ClientOptions
from serve_app.errors import InvalidOption
from serve_app.http import create_app
from serve_app.http.openai import ChatRequest
from serve_app.limits import Limits
from serve_app.options import Interface, Options, is_list, offered, parse_options
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService
from serve_app.types import CaptionOptions
from serve_app.ui.options import OptionControls, options_of
from serve_app.ui.texts import LANGUAGES, TEXTS
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import echo
from tests.unit.test_mcp import running

API = Path(__file__).parents[2] / "docs" / "api.md"
ALL = [*Options.model_fields]


@pytest.mark.parametrize("command", ["caption", "batch"])
def test_flags_are_the_options_that_the_command_offers(command: str) -> None:
    interface: Interface = "cli" if command == "caption" else "batch"
    group: Any = typer.main.get_command(cli)
    flags = {flag.name: flag for flag in group.commands[command].params}
    assert {*flags} & {*ALL} == {*offered(interface)}
    for name, field in offered(interface).items():
        assert flags[name].opts[0] == "--" + (name.removesuffix("s") if is_list(field) else name).replace("_", "-")
        assert flags[name].default is None


async def test_the_tool_takes_the_options_that_mcp_offers() -> None:
    """Its `prompt` added to the presets while the command line's `--prompt` replaced them."""
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    with running(service) as url:
        async with Client(url) as agent:
            (tool,) = (await agent.list_tools()).tools
    found = tool.input_schema["properties"]
    assert [*found] == ["image", *offered("mcp")]
    for name, field in offered("mcp").items():
        assert found[name]["description"] == field.description
    assert tool.input_schema["required"] == ["image"]


def test_a_chat_request_takes_the_options_that_chat_offers() -> None:
    assert {*ChatRequest.model_fields} & {*ALL} == {*offered("chat")}


def test_the_page_has_a_control_for_each_option_that_it_offers() -> None:
    import gradio as gr

    with gr.Blocks():
        controls = OptionControls("x")
    assert len(controls.inputs) == len(offered("page"))
    assert {*options_of([f"a {name}" for name in offered("page")])} == {*offered("page")} - {"multi_round"}
    for language in LANGUAGES:
        assert {*offered("page")} <= {*TEXTS[language]}


def test_http_describes_every_option() -> None:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    body = create_app(service).openapi()["paths"]["/v1/captions"]["post"]["requestBody"]["content"]
    for media_type in ("multipart/form-data", "application/json"):
        assert {*ALL} <= {*body[media_type]["schema"]["properties"]}, media_type


def test_the_client_knows_every_option() -> None:
    assert [*get_type_hints(ClientOptions)] == ALL
    assert client.CaptionArguments is ClientOptions


def test_the_documentation_tells_of_every_option_in_order() -> None:
    text = API.read_text(encoding="utf-8")
    table = text[text.index("| option | meaning | default |") :].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.M) == ALL


def test_what_the_pipeline_is_told_comes_from_options() -> None:
    assert {*CaptionOptions.__dataclass_fields__} <= {*ALL}
    told = parse_options({"max_words": 7, "tidy": False, "extra_prompts": ["it is"]}, Limits(default_seed=3))
    assert (told.max_words, told.tidy, told.extra_prompts, told.seed, told.prompts) == (7, False, ("it is",), 3, ())
    with pytest.raises(InvalidOption, match="max_wrods: there is no such option"):
        parse_options({"max_wrods": 1}, Limits())
