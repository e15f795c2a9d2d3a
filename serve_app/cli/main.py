"""The command `caption-serve`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args

import typer
from pydantic import ValidationError

import serve_app
from serve_app.args import AppArgs, matcher_for
from serve_app.batch.names import shown
from serve_app.cli.batch import batch
from serve_app.cli.flags import CAPTIONER, CAPTIONER_URL, captioners_of, models_of, problem_of, sizes, with_options
from serve_app.errors import CaptionServeError, InvalidOption, ModelError
from serve_app.options import given, parse_options
from serve_app.service import CaptionService
from serve_app.types import DTYPES, Dtype

SOME_FAILED, USAGE = 1, 2
"""Exit codes: a file could not be captioned; nothing could be tried."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(serve_app.__version__)
        raise typer.Exit


MATCHER = "matching model that weighs statements; none disables it (default: demo with --model demo, else none)"


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Detailed image captions from BLIP."""


@app.command()
@with_options("cli")
def caption(
    files: Annotated[list[Path], typer.Argument(help="image files")],
    model: Annotated[str, typer.Option(help="demo, a local directory, or a hub id")] = "demo",
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    matcher: Annotated[str | None, typer.Option(help=MATCHER)] = None,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(get_args(Dtype))}. {DTYPES}")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    engine: Annotated[str, typer.Option(help="of BLIP: decode, or transformers: its generate")] = "decode",
    captioner_url: Annotated[str | None, typer.Option(help=CAPTIONER_URL)] = None,
    captioner: Annotated[list[str] | None, typer.Option(help=CAPTIONER)] = None,
    max_image_bytes: Annotated[int | None, typer.Option(min=1, help="largest file of an image")] = None,
    max_image_pixels: Annotated[int | None, typer.Option(min=1, help="largest image in pixels, width × height")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="the full result, one JSON object a line")] = False,
    **options: Any,
) -> None:
    """Caption FILES without a server: captions to stdout, progress to stderr.

    Exits with 1 if a file failed and with 2 if the model or an option is invalid.
    """
    from serve_app.local import local_service  # brings torch, which --help can do without

    asked = given(options)
    captioners = captioners_of(captioner, model, engine, revision, captioner_url)
    try:
        args = AppArgs.model_validate(
            {
                **captioners,
                "matcher": matcher_for(models_of(captioners), matcher),
                "dtype": dtype,
                "device": device,
                **sizes(max_image_bytes, max_image_pixels),
            }
        )
    except ValidationError as error:
        _stop(problem_of(error))
    try:
        parse_options(asked, args.limits())
        service = local_service(args)
        failed = asyncio.run(_caption_all(service, files, asked, as_json))
    except (InvalidOption, ModelError) as error:
        _stop(error.message)
    if failed:
        typer.echo(f"{failed} of {len(files)} files failed.", err=True)
        raise typer.Exit(SOME_FAILED)


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="Serve config; else one for one machine")] = None,
    model: Annotated[str | None, typer.Option(help="demo, a local directory, or a hub id")] = None,
    matcher: Annotated[str | None, typer.Option(help="model that weighs clauses, beside another captioner")] = None,
    answerer: Annotated[str | None, typer.Option(help="model for questions, beside another captioner")] = None,
    port: Annotated[int | None, typer.Option(help="the config's unless given")] = None,
    sample: Annotated[Path | None, typer.Option(help="image to caption when the service is ready")] = None,
    verbose: Annotated[
        bool, typer.Option(envvar="CAPTION_SERVE_VERBOSE", help="Ray's and Serve's log to the terminal")
    ] = False,
) -> None:
    """Serve the API and the web page on this machine, with its own Ray cluster, until Ctrl-C."""
    from serve_app.cli import launch  # brings Ray

    found = launch.launch(config or launch.CONFIG, model, matcher, answerer, port, sample or launch.SAMPLE, verbose)
    raise typer.Exit(found)


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
    model: Annotated[str, typer.Option(help="demo, a local directory, or a hub id")] = "demo",
    matcher: Annotated[str | None, typer.Option(help=MATCHER)] = None,
    answerer: Annotated[str | None, typer.Option(help="model for questions; none disables it")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
) -> None:
    """Serve the web page on this machine, without a cluster."""
    from serve_app.cli.page import serve_page  # brings torch and Gradio

    try:
        check_port(host, port)
        typer.echo(f"Loading {model} …", err=True)
        args = AppArgs(
            model=model, matcher=matcher_for([model], matcher), answerer=matcher_for([model], answerer), device=device
        )
        serve_page(args, host, port, lambda url: typer.echo(f"The page is at {url}."))
    except (OSError, ModelError) as error:
        _stop(error.message if isinstance(error, ModelError) else f"{host}:{port}: {error.strerror}.")


@app.command()
def key(
    name: Annotated[str | None, typer.Argument(help="who will use it")] = None,
    file: Annotated[Path | None, typer.Option(help="key file that its hash is appended to")] = None,
    rows_per_minute: Annotated[int | None, typer.Option(min=1, help="instead of key_rows_per_minute")] = None,
    rows_at_once: Annotated[int | None, typer.Option(min=1, help="instead of key_rows_at_once")] = None,
    expires: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="first day on which it is not valid any more (UTC)")
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="list the keys of FILE instead")] = False,
    revoke: Annotated[bool, typer.Option(help="take NAME out of FILE instead")] = False,
) -> None:
    """Make an API key: the key to stdout, once; its line for the key file to FILE, or to stderr."""
    from serve_app.cli import keys

    limits = {"rows_per_minute": rows_per_minute, "rows_at_once": rows_at_once, "expires": expires and expires.date()}
    try:
        if show or revoke:
            if file is None or (revoke and name is None):
                _stop("--list needs --file, and --revoke a name, too.")
            if revoke:
                keys.revoke_key(str(name), file)
            for line in keys.list_keys(file) if show else ():
                typer.echo(line)
            return
        if name is None:
            _stop("Say who will use the key: caption-serve key NAME.")
        made, line = keys.make_key(name, file, **{limit: value for limit, value in limits.items() if value is not None})
    except InvalidOption as error:
        _stop(error.message)
    typer.echo(made)
    if file is None:
        typer.echo(f"For the key file: {line}", err=True)


@app.command()
def mcp(
    model: Annotated[str, typer.Option(help="demo, a local directory, or a hub id")] = "demo",
    matcher: Annotated[str | None, typer.Option(help=MATCHER)] = None,
    answerer: Annotated[str | None, typer.Option(help="model for questions; none disables it")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    fetch_host: Annotated[list[str] | None, typer.Option(help="host whose images may be fetched by URL")] = None,
) -> None:
    """Offer agents of this machine tools that look at its files: MCP over stdin and stdout."""
    from serve_app.cli.mcp import serve_mcp  # brings torch

    args = AppArgs(
        model=model,
        matcher=matcher_for([model], matcher),
        answerer=matcher_for([model], answerer),
        device=device,
        fetch_hosts=tuple(fetch_host or ()),
    )
    try:
        serve_mcp(args)
    except ModelError as error:
        _stop(error.message)


app.command()(batch)


def check_port(host: str, port: int) -> None:
    """Raises `OSError` when nobody can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


async def _caption_all(service: CaptionService, files: list[Path], options: dict[str, Any], as_json: bool) -> int:
    """Captions one file after the other and returns how many failed. Raises `InvalidOption`."""
    failed = 0
    for number, file in enumerate(files, start=1):
        name = shown(str(file))
        typer.echo(f"[{number}/{len(files)}] {name}", err=True)
        try:
            body = await service.caption(file.read_bytes(), options)
        except InvalidOption:
            raise
        except (CaptionServeError, OSError) as error:
            failed += 1
            reason = error.message if isinstance(error, CaptionServeError) else f"{os.strerror(error.errno or 0)}."
            typer.echo(f"{name}: {reason}", err=True)
            if as_json:
                typer.echo(json.dumps({"file": name, "error": reason}, ensure_ascii=False))
            continue
        if as_json:
            typer.echo(json.dumps({"file": name, **body.model_dump()}, ensure_ascii=False))
        else:
            typer.echo(body.caption if len(files) == 1 else f"{name}\t{body.caption}")
    return failed


def _stop(sentence: str) -> NoReturn:
    typer.echo(sentence, err=True)
    raise typer.Exit(USAGE)
