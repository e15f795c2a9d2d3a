"""Who may import what."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "serve_app"
EVERYONES = {"deadline", "retry", "steps", "types", "task_types", "errors", "contract", "limits", "options", "tasks"}
MAY_IMPORT = {
    "types": {"errors"},
    "task_types": {"types"},
    "deadline": {"errors"},
    "retry": {"deadline", "errors"},
    "steps": {"types", "errors"},
    "contract": set[str](),
    "limits": {"types"},
    "tasks": {"types", "contract", "options"},
    "options": {"types", "errors", "limits"},
    "client": {"contract", "deadline", "errors", "retry", "types", "tasks"},
    "errors": set[str](),
    "args": EVERYONES,
    "instant": EVERYONES,
    "pipeline": EVERYONES,
    "engine": EVERYONES,
    "service": EVERYONES,
    "http": {*EVERYONES, "service"},
    "ui": {*EVERYONES, "args", "pipeline", "engine", "service"},
    "wiring": {*EVERYONES, "args", "pipeline", "service"},
    "remote": EVERYONES,
    "engines": {*EVERYONES, "args", "instant", "engine", "remote"},
    "local": {*EVERYONES, "args", "engines", "pipeline", "service", "wiring"},
    "deployments": {*EVERYONES, "wiring", "args", "engines", "pipeline", "service", "http", "ui"},
    "batch": {*EVERYONES, "args", "instant", "remote", "local", "pipeline", "engine", "service", "deployments"},
    "cli": {*EVERYONES, "args", "local", "pipeline", "engine", "service", "http", "ui", "batch", "client"},
    "app": {"args", "deployments"},
}
FORBIDDEN = {
    "types": {"torch", "ray", "PIL", "starlette", "fastapi", "transformers", "numpy", "pydantic"},
    "errors": {"torch", "ray", "PIL", "starlette", "fastapi", "transformers", "numpy", "pydantic"},
    "task_types": {"torch", "ray", "PIL", "starlette", "fastapi", "transformers", "numpy", "pydantic"},
    "steps": {"torch", "ray", "PIL", "starlette", "fastapi", "transformers", "numpy", "pydantic"},
    "pipeline": {"torch", "ray", "PIL", "starlette", "fastapi", "transformers", "numpy"},
    "instant": {"torch", "ray", "PIL", "starlette", "fastapi", "transformers", "numpy"},
    "remote": {"torch", "ray", "starlette", "fastapi", "transformers", "numpy"},
    "engine": {"ray", "starlette", "fastapi", "pydantic"},
    "service": {"ray", "torch", "transformers", "starlette", "fastapi"},
    "http": {"ray", "torch", "transformers", "PIL"},
    "ui": {"torch", "ray"},
    "client": {"torch", "ray", "starlette", "fastapi", "transformers"},
}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_layers(file: Path) -> None:
    if file.name == "__main__.py":
        return  # is started, not imported
    layer = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(file):
        root, _, rest = name.partition(".")
        if layer == "__init__":
            assert root != "serve_app", "the package itself imports nothing of it"
        elif root == "serve_app" and rest:
            other = rest.split(".")[0]
            assert other == layer or other in MAY_IMPORT[layer], f"{layer} must not import {name}"
        else:
            assert root not in FORBIDDEN.get(layer, set()), f"{layer} must not import {name}"


def test_layers_have_no_circle() -> None:
    graphlib.TopologicalSorter(MAY_IMPORT).prepare()


@pytest.mark.parametrize("base", ["serve_app", "lab", "bench"])
def test_modules_have_no_circle(base: str) -> None:
    """Imports inside functions count: who reads a module must not have to read its callers first."""
    root = PACKAGE.parent
    modules = {}
    for file in (root / base).rglob("*.py"):
        name = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = {each for each in imported(file) if each.partition(".")[0] == base}
    graph = {name: {_module(each, modules) for each in names} - {name} for name, names in modules.items()}
    graphlib.TopologicalSorter(graph).prepare()


def _module(name: str, modules: Mapping[str, object]) -> str:
    return name if name in modules else name.rpartition(".")[0]


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("serve_app.pipeline, serve_app.http", {"torch", "ray", "transformers"}),
        ("serve_app.app", {"torch", "transformers", "gradio"}),
        ("serve_app.cli.main", {"torch", "ray", "transformers", "gradio"}),
        ("serve_app.client", {"torch", "ray", "transformers", "fastapi", "PIL"}),
    ],
)
def test_light_modules_stay_light(modules: str, absent: set[str]) -> None:
    """The ingress, the controller and `--help` must not pay for torch."""
    code = f"import sys, {modules}; print(*({absent!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []
