"""`caption-serve batch`, with all its options."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import typer

from serve_app.args import matcher_for
from serve_app.cli.flags import CAPTIONER, CAPTIONER_URL, captioners_of, models_of, sizes, with_options
from serve_app.options import given
from serve_app.types import DTYPES, Dtype


@with_options("batch")
def batch(
    source: Annotated[
        str, typer.Argument(help="directory, glob, list, table or tar; local or a URL that fsspec knows")
    ],
    out: Annotated[str, typer.Option("--out", help="folder of the output and of the job's state")],
    to: Annotated[
        Literal["parquet", "jsonl", "csv", "sidecar", "webdataset"] | None,
        typer.Option("--to", help="what is written; by the suffix of --out, else parquet"),
    ] = None,
    source_kind: Annotated[
        Literal["images", "list", "table", "webdataset"] | None,
        typer.Option(
            "--from",
            help="type of SOURCE (default: by its suffix: .txt list, .csv .parquet .arrow table, .tar webdataset)",
        ),
    ] = None,
    column: Annotated[str | None, typer.Option(help="table column of paths, URLs or bytes")] = None,
    keep: Annotated[list[str] | None, typer.Option(help="table column to copy to the output; may be repeated")] = None,
    texts: Annotated[
        str | None, typer.Option(help="table column with alt texts: one that fits its image stays, else a new caption")
    ] = None,
    floor: Annotated[float, typer.Option(min=0, max=1, help="match score that such a text needs")] = 0.5,
    full: Annotated[
        bool, typer.Option(help="variants, rounds, clauses, contested statements, scores and timings too")
    ] = False,
    template: Annotated[str, typer.Option(help="of {caption}, {stem}, {path}, {clauses}")] = "{caption}",
    prefix: Annotated[str, typer.Option(help="text before each caption")] = "",
    suffix: Annotated[str, typer.Option(help="text behind each caption")] = "",
    sidecar_suffix: Annotated[str, typer.Option(help="of --to sidecar, for example .caption")] = ".txt",
    skip_existing: Annotated[bool, typer.Option(help="leave out images that have a sidecar")] = False,
    overwrite: Annotated[bool, typer.Option(help="replace sidecars that this job did not write")] = False,
    exclude: Annotated[
        list[str] | None, typer.Option(help="glob of file names or paths to leave out; may be repeated")
    ] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="inputs of an output file")] = 1000,
    model: Annotated[str, typer.Option(help="demo, a local directory, or a hub id")] = "demo",
    matcher: Annotated[str | None, typer.Option(help="matching model that weighs statements; none disables it")] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit of a hub id")] = None,
    dtype: Annotated[str, typer.Option(help=f"{', '.join(get_args(Dtype))}. {DTYPES}")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    engine: Annotated[str, typer.Option(help="of BLIP: decode or transformers; instant: no model")] = "decode",
    captioner_url: Annotated[str | None, typer.Option(help=CAPTIONER_URL)] = None,
    captioner: Annotated[list[str] | None, typer.Option(help=CAPTIONER)] = None,
    fetch_host: Annotated[
        list[str] | None, typer.Option(help="host to fetch http(s) images from; every public one unless given")
    ] = None,
    fetch_network: Annotated[list[str] | None, typer.Option(help="network (CIDR) that is no public one")] = None,
    max_image_bytes: Annotated[int | None, typer.Option(min=1, help="largest file of an image")] = None,
    max_image_pixels: Annotated[int | None, typer.Option(min=1, help="largest image in pixels, width × height")] = None,
    via_handle: Annotated[str | None, typer.Option(help="ask this running application instead of own engines")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="images in progress with --via-handle")] = 16,
    address: Annotated[
        str, typer.Option(envvar="RAY_ADDRESS", help="Ray cluster to join; local: one of this machine's own")
    ] = "local",
    engines: Annotated[
        str | None, typer.Option(help="how many, or from-to such as 1-8; else what the cluster has")
    ] = None,
    cpus_per_engine: Annotated[int | None, typer.Option(min=1, help="torch threads of an engine without GPU")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images that travel to an engine together")] = 16,
    duplicates_window: Annotated[
        int, typer.Option(min=0, help="distinct images remembered to spare duplicates")
    ] = 50_000,
    window: Annotated[
        int, typer.Option(min=1, help="inputs after which the engines start anew and Ray Data's memory is given back")
    ] = 250_000,
    max_errors: Annotated[int | None, typer.Option(min=0, help="stop when more inputs have failed")] = None,
    retry_failed: Annotated[bool, typer.Option(help="try the failed inputs of a finished job again")] = False,
    refresh_outdated: Annotated[
        bool, typer.Option(help="caption again what an older version or model made, in a job that is finished")
    ] = False,
    restart: Annotated[bool, typer.Option(help="drop the job in --out and its files, and begin anew")] = False,
    report: Annotated[bool, typer.Option(help="write a page with a sample of the captions")] = True,
    dry_run: Annotated[
        bool, typer.Option(help="say what would be done and how long it may take; write nothing")
    ] = False,
    **options: Any,
) -> None:
    """Caption every image of SOURCE, on this machine or a Ray cluster; the same command goes on after a kill.

    Exits with 0 when all were captioned, 1 when some failed, 2 when the job could not begin, 3 when all failed, 4 when
    it stopped on the way.
    """
    from serve_app.batch import command  # brings Ray, which --help can do without

    captioners = captioners_of(captioner, model, engine, revision, captioner_url)
    args: dict[str, Any] = {
        **captioners,
        "matcher": matcher_for(models_of(captioners), matcher),
        "dtype": dtype,
        "device": device,
    }
    args |= {"fetch_hosts": tuple(fetch_host or ("*",)), "fetch_networks": tuple(fetch_network or ())}
    args |= sizes(max_image_bytes, max_image_pixels)
    least, most = _engines(engines)
    settings = {
        "sink": to, "source_kind": source_kind, "column": column, "keep": tuple(keep or ()), "full": full,
        "texts_column": texts, "floor": floor,
        "template": template, "prefix": prefix, "suffix": suffix,
        "sidecar_suffix": sidecar_suffix, "skip_existing": skip_existing, "overwrite": overwrite,
        "exclude": tuple(exclude or ()), "shard_size": shard_size, "retry_failed": retry_failed,
        "refresh_outdated": refresh_outdated,
        "options": given(options), "args": args,
        "via_handle": via_handle, "concurrency": concurrency, "address": address, "min_engines": least,
        "max_engines": most, "cpus_per_engine": cpus_per_engine, "batch_size": batch_size, "window": window,
        "duplicates_window": duplicates_window, "max_errors": max_errors, "restart": restart, "report": report,
    }  # fmt: skip
    raise typer.Exit(command.main(source, out, settings, dry_run))


def _engines(words: str | None) -> tuple[int | None, int | None]:
    if words is None:
        return None, None
    least, _, most = words.partition("-")
    try:
        found = int(least), int(most or least)
    except ValueError:
        found = 0, 0
    if not 1 <= found[0] <= found[1]:
        raise typer.BadParameter("is a number such as 4, or a range such as 1-8", param_hint="--engines")
    return found
