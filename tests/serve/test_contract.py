"""The running service against its own description, by schemathesis."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import ROOT, Service

pytestmark = pytest.mark.extended


EXAMPLES = 150
"""Generated for each operation, besides those that cover its schema."""
LEAST_CASES = 2000


@pytest.mark.timeout(600)
def test_service_keeps_its_contract(service: Service) -> None:
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", "tests/serve/schemathesis.toml"]
    command += ["run", f"{service.url}/instant/openapi.json", "--url", f"{service.url}/instant"]
    command += ["--max-examples", str(EXAMPLES), "--no-color", "--workers", "2", "--seed", "1"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.serve.contract_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    (cases,) = re.findall(r"(\d+) generated, \d+ passed", done.stdout)
    assert int(cases) >= LEAST_CASES, done.stdout[-1500:]
