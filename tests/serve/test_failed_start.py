"""What a user sees when the service cannot start."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from serve_app.engine.checkpoint import DEMO_DIRECTORY
from tests.serve.conftest import CAPTION_SERVE, ROOT, free_port

pytestmark = pytest.mark.extended


def start(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    command = [CAPTION_SERVE, "serve", "--port", str(free_port()), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)


def test_model_that_does_not_exist_is_told_before_anything_starts() -> None:
    done = start("--model", "/nowhere", timeout_s=120)
    assert done.returncode == 1
    assert done.stderr.strip() == "There is no directory '/nowhere', and it is not the id of a model on the hub."


def test_model_that_cannot_be_loaded_fails_the_deployment_with_its_reason(tmp_path: Path) -> None:
    """The weights are whole and do not fit the configuration, which only shows when a replica loads them."""
    model = Path(shutil.copytree(DEMO_DIRECTORY, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["vocab_size"] += 1
    (model / "config.json").write_text(json.dumps(config))
    done = start("--model", str(model), timeout_s=280)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"The service cannot be deployed: The checkpoint {str(model)!r} does not fit")
