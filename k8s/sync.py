"""Copies configs/*.yaml into the manifests' serveConfigV2: `python k8s/sync.py`, or `--check` to compare only."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

import yaml

K8S = Path(__file__).parent
CONFIGS = K8S.parent / "configs"
SOURCES = {
    K8S / "base" / "rayservice.yaml": CONFIGS / "serve.yaml",
    K8S / "overlays" / "cpu" / "serve-config.yaml": CONFIGS / "cpu.yaml",
    K8S / "overlays" / "committee" / "serve-config.yaml": CONFIGS / "committee-gpu.yaml",
}
KEY = "  serveConfigV2: |"


def split(manifest: str) -> tuple[list[str], list[str], list[str]]:
    """The lines up to the key, those of its block, and the rest."""
    lines = manifest.splitlines()
    start = lines.index(KEY) + 1
    end = start
    while end < len(lines) and (not lines[end].strip() or lines[end].startswith("    ")):
        end += 1
    while not lines[end - 1].strip():  # blank lines after the block are the manifest's
        end -= 1
    return lines[:start], lines[start:end], lines[end:]


def embedded(manifest: str) -> str:
    return textwrap.dedent("\n".join(split(manifest)[1])) + "\n"


def replaced(manifest: str, config: str) -> str:
    before, _, after = split(manifest)
    block = textwrap.indent(config.strip("\n"), "    ")
    return "\n".join([*before, block, *after]) + "\n"


def differing() -> list[Path]:
    """Manifests whose config says something else than its source; comments don't count."""
    return [
        manifest
        for manifest, config in SOURCES.items()
        if yaml.safe_load(embedded(manifest.read_text(encoding="utf-8")))
        != yaml.safe_load(config.read_text(encoding="utf-8"))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when something differs")
    if parser.parse_args().check:
        found = differing()
        for manifest in found:
            source = SOURCES[manifest].relative_to(K8S.parent)
            print(f"{manifest.relative_to(K8S.parent)} differs from {source}; run `python k8s/sync.py`.")
        return 1 if found else 0
    for manifest, config in SOURCES.items():
        text = replaced(manifest.read_text(encoding="utf-8"), config.read_text(encoding="utf-8"))
        manifest.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
