"""README and docs: links lead somewhere, Python compiles, commands and their flags exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from serve_app.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "k8s" / "README.md"]
MOST_LINES = 150
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_compiles(page: Path) -> None:
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            if code.startswith(" "):  # goes on from the block before
                code = "if True:\n" + code
            compile(code, named(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    """Of the command line with their flags, of Python's modules, and of make."""
    text = page.read_text(encoding="utf-8")
    group: Any = typer.main.get_command(app)
    for name, rest in re.findall(r"caption-serve (caption|serve|ui|key|batch)\b([^\n`#]*)", text):
        flags = {flag for parameter in group.commands[name].params for flag in parameter.opts}
        assert {*re.findall(r"--[a-z-]+", rest)} <= {*flags, "--help"}, rest
    for module in re.findall(r"python -m ((?:demo|bench|serve_app)[\w.]*)", text):
        assert importlib.util.find_spec(module), module
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z][a-z-]*)\b(?=[`\s]*(?:\n|`|[A-Z]+=|\s+#))", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in text] == []
