"""Results of benchmarks as files, and the documents' tables written from them.

    python -m bench.results record NAME -- python -m bench.http     # runs it, keeps its last line in bench/results/
    python -m bench.results write                                   # writes the tables of README.md and docs/
    python -m bench.results write --check                           # fails if a table is not what the files say

A result has its figures, the command, the revision, the machine and the versions. In a document a table stands between
`<!-- NAME -->` and `<!-- /NAME -->`, where NAME is one of `TABLES`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
PACKAGES = ("torch", "transformers", "ray")

Result = Mapping[str, Any]


def record(name: str, command: Sequence[str]) -> None:
    """Runs a benchmark whose last line is JSON. Raises `CalledProcessError` and `ValueError`."""
    started = [sys.executable if word == "python" else word for word in command]
    with subprocess.Popen(started, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    result = {
        "command": " ".join(command),
        "revision": _revision(),
        "machine": machine(),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        "figures": json.loads(line),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> str:
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory = round(psutil.virtual_memory().total / 2**30)
    return f"{len(os.sched_getaffinity(0))} cores of {models[0] if models else platform.machine()}, {memory} GiB"


def _revision() -> str:
    """The commit, with a + if product or benchmark differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "serve_app", "lab", "bench/*.py", "configs")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def results() -> dict[str, Result]:
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(RESULTS.glob("*.json"))}


def origin(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return f"`{result['command']}`; revision {result['revision']}; {result['machine']}; {versions}."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


STRATEGIES = {
    "basic": "`basic`",
    "best of N": "best of 12 by match score",
    "classic low": "`classic`, low",
    "classic medium": "`classic`, medium",
    "classic high": "`classic`, high",
    "grounded low": "**`grounded`**, low",
    "grounded medium": "**`grounded`**, medium",
    "grounded high": "**`grounded`**, high",
    "grounded high, no matcher": "`grounded`, high, without a matcher",
}


def scenes(found: Mapping[str, Result]) -> str:
    (rows,) = found["scenes"]["figures"]["runners"].values()

    def cell(row: Result, measure: str) -> str:
        low, high = row["intervals"][measure]
        if low == high == 0:  # nothing of the kind was claimed
            return "–"
        return f"{percent(row[measure])} ({100 * low:.1f}–{100 * high:.1f})"

    head = ["", "objects named", "wrong", "counts right", "relations right", "well-formed", "words", "seconds"]
    return table(
        [*head, "generate · match calls"],
        [
            [
                label,
                *(cell(rows[name], measure) for measure in ("recall", "wrong", "counts", "relations", "well_formed")),
                f"{rows[name]['words']:.0f}",
                f"{rows[name]['seconds']:.2f}",
                f"{rows[name]['generate_calls']:.1f} · {rows[name]['match_calls']:.1f}",
            ]
            for name, label in STRATEGIES.items()
        ],
    )


def questions(found: Mapping[str, Result]) -> str:
    figures = found["questions"]["figures"]
    matching, answering = figures["matching"], figures["answering"]
    swaps = [[f"matching, {swap} swapped", f"{area:.3f}"] for swap, area in matching["by_swap"].items()]
    kinds = [[f"answers, {kind}", percent(share)] for kind, share in answering["by_kind"].items()]
    return table(
        ["", "area · share"],
        [["matching", f"{matching['auc']:.3f}"], *swaps, ["answers", percent(answering["exact"])], *kinds],
    )


def cost(found: Mapping[str, Result]) -> str:
    proxies = {"haproxy": "HAProxy", "default": "Serve's default"}
    return table(
        ["proxy · caption replicas", "one client, median", "`/healthz`", "24 clients", "open loop, 99 % within 1 s"],
        [
            [
                f"{proxies[one['proxy']]} · {one['captioners']}",
                f"{one['one_client_p50_ms']} ms",
                f"{one['healthz_p50_ms']} ms",
                f"{one['24_clients_per_s']:.0f} /s",
                f"{one['highest_open_loop_rate']} /s",
            ]
            for one in found["http"]["figures"]["cost"]
        ],
    )


def overload(found: Mapping[str, Result]) -> str:
    one = found["http"]["figures"]["overload"]
    accepted, shed = one["accepted_ms"], one["shed_ms"]
    return table(
        ["offered", "completed", "of the peak", "accepted: median · 99 %", "rejected: median · 99 %"],
        [
            [
                f"{one['offered_per_s']} /s",
                f"{one['completed_per_s']:.1f} /s",
                f"{one['share_of_peak']:.0%}".replace("%", " %"),
                f"{accepted['p50'] / 1000:.1f} s · {accepted['p99'] / 1000:.1f} s",
                f"{shed['p50']} ms · {shed['p99']} ms",
            ]
        ],
    )


def engine(found: Mapping[str, Result]) -> str:
    figures = found["engine"]["figures"]
    rows = [["transformers' `generate`, float32", f"{figures['reference_s']:.0f} s", ""]]
    for precision, one in figures["single_s"].items():
        many = figures["throughput_s"][precision]
        rows.append(
            [
                f"this engine, {precision}",
                f"{one:.1f} s, {figures['single_ratio'][precision]:.1f}×",
                f"{many:.1f} s, {figures['throughput_ratio'][precision]:.1f}×",
            ]
        )
    return table(["", "one image", f"{figures['images']} at once"], rows)


def precision(found: Mapping[str, Result]) -> str:
    runners = found["precision"]["figures"]["runners"]
    rows = []
    for strategy in ("classic high", "grounded high"):
        for number, (runner, measured) in enumerate(runners.items()):
            one, dtype = measured[strategy], runner.partition(":")[2].replace("auto", "float32")
            same = percent(one["identical"]) if number else ""
            rows.append([f"`{strategy.split()[0]}`, {dtype}", percent(one["recall"]), percent(one["wrong"]), same])
    return table(["", "objects named", "of those wrong", "same text as in float32"], rows)


def gpu(found: Mapping[str, Result]) -> str:
    one = found["gpu_fake"]["figures"]
    bf16, fp8 = one["predicted_limit_images_s"], one["predicted_limit_images_s_fp8"]
    return table(
        ["counted, or predicted", ""],
        [
            ["times that the host waits in a step", f"{one['host_waits_per_step']:g}"],
            [
                "launches of a step, PyTorch's operations · Triton's kernels",
                f"{one['launches_per_step']:.0f} · {one['launches_with_kernels']:.0f}",
            ],
            [
                "graphs captured at start · while serving an image",
                f"{one['graphs']} · {one['captured_while_serving']}",
            ],
            ["memory after warm-up", f"{one['memory_gb']:.1f} GB"],
            [
                "**prediction**, not a measurement: detail high, one image, on an H100",
                f"{one['predicted_one_image_s']:.2f} s",
            ],
            [
                "**prediction** of the card's limit when full, keys and values in bfloat16 · in FP8",
                f"{bf16:.0f} · {fp8:.0f} images/s",
            ],
        ],
    )


def three(found: Mapping[str, Result]) -> str:
    (runs,) = found["scenes"]["figures"]["runners"].values()
    best, http, cpu = runs["grounded high"], found["http"]["figures"]["cost"][0], found["engine"]["figures"]
    ratios = cpu["single_ratio"]
    return table(
        ["what", "figure", "command"],
        [
            [
                f"`grounded`, detail high, {found['scenes']['figures']['scenes']} held-out scenes, embedded models",
                f"{percent(best['recall'])} of the objects named, {percent(best['wrong'])} of those wrong, "
                f"{percent(best['relations'])} of sizes and places right",
                f"`{found['scenes']['command']}`",
            ],
            [
                "cost of the service around the engine (HAProxy, one caption replica): one client, median · 24 clients",
                f"{http['one_client_p50_ms']} ms · {http['24_clients_per_s']:.0f} requests/s",
                f"`{found['http']['command']}`",
            ],
            [
                "full-size BLIP with random weights, detail high, against transformers' `generate` in float32, two CPU "
                "cores: float32 · int8",
                f"{ratios['float32']:.1f}× · {ratios['int8']:.1f}× for one image",
                f"`{found['engine']['command']}`",
            ],
        ],
    )


def origins(found: Mapping[str, Result]) -> str:
    return "\n".join(f"- [{name}](../bench/results/{name}.json): {origin(one)}" for name, one in found.items())


TABLES: Mapping[str, Callable[[Mapping[str, Result]], str]] = {
    each.__name__: each for each in (scenes, questions, cost, overload, engine, precision, gpu, three, origins)
}


def written(text: str, found: Mapping[str, Result]) -> str:
    """The document with its tables as the results have them. Raises `KeyError` for an unknown table or result."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n{TABLES[name](found)}\n<!-- /{name} -->"

    return re.sub(r"<!-- (\w+) -->\n.*?<!-- /\1 -->", filled, text, flags=re.DOTALL)


def write(check: bool) -> list[Path]:
    """Writes the documents, or only says which of them are not up to date."""
    found, stale = results(), []
    for document in DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        if (after := written(before, found)) != before:
            stale.append(document)
            if not check:
                document.write_text(after, encoding="utf-8")
    return stale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="action", required=True)
    recording = commands.add_parser("record", help="run a benchmark and keep its result")
    recording.add_argument("name")
    recording.add_argument("command", nargs=argparse.REMAINDER)
    writing = commands.add_parser("write", help="write the documents' tables")
    writing.add_argument("--check", action="store_true", help="change nothing, fail if a table is stale")
    args = parser.parse_args()
    if args.action == "record":
        record(args.name, [word for word in args.command if word != "--"])
        return 0
    stale = write(args.check)
    for document in stale:
        print(f"{document.relative_to(ROOT)}: {'not what bench/results says' if args.check else 'written'}")
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
