"""The client with nothing installed but what the package itself requires."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys

RUN = """
import sys

allowed = set({allowed!r}) | sys.stdlib_module_names

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])

sys.meta_path.insert(0, Absent())
{code}
"""


def required(name: str, extra: str = "") -> set[str]:
    """A distribution and all that it requires."""
    found = {name}
    for line in importlib.metadata.requires(name) or []:
        requirement, _, marker = line.partition(";")
        if "extra ==" in marker:
            continue
        other = re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0]
        try:
            found |= required(other)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def alone(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code where only the package's own requirements can be imported."""
    ours = {name.lower().replace("_", "-") for name in required("caption-serve")}
    modules = importlib.metadata.packages_distributions()
    allowed = [module for module, by in modules.items() if ours & {name.lower().replace("_", "-") for name in by}]
    script = RUN.format(allowed=[*allowed, "serve_app"], code=code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_the_client_needs_httpx_and_pydantic_only() -> None:
    """Whoever wanted the client installed ray, torch and gradio."""
    assert {"httpx", "pydantic"} <= required("caption-serve")
    assert not {"ray", "torch", "gradio", "fastapi", "typer"} & required("caption-serve")
    code = (
        "import json, serve_app.client as c\n"
        "client = c.CaptionServe('http://127.0.0.1:9', max_retries=0)\n"
        "try:\n    client.caption(b'x')\n"
        "except c.ServiceUnreachable as error:\n    print(json.dumps(error.slug))"
    )
    done = alone(code)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == "service-unreachable"


def test_a_command_without_its_packages_says_what_to_install() -> None:
    done = alone("from serve_app.cli import run; run()")
    assert done.returncode == 1
    assert re.fullmatch(
        r"This command needs the package \w+; install all with: pip install 'caption-serve\[all\]'\.\n", done.stderr
    )
