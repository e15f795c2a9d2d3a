"""The embedded model, loaded once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is defined, that is at import


from lab import held_out
from serve_app.engine import AsyncEngine, Loaded, ReferenceGenerator, load
from serve_app.limits import Limits
from serve_app.service import images
from serve_app.types import Generator, Pixels


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    return load("demo")


@pytest.fixture(scope="session")
def generator() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(load("demo"))
    yield engine
    engine.check_integrity()
    engine.close()


@pytest.fixture(scope="session")
def reference(loaded: Loaded) -> Iterator[ReferenceGenerator]:
    engine = ReferenceGenerator(loaded)
    yield engine
    engine.close()


@pytest.fixture(params=["generator", "reference"])
def either(request: pytest.FixtureRequest) -> Generator:
    """Both engines in turn."""
    engine: Generator = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(scope="session")
def sample(loaded: Loaded) -> Pixels:
    return images.read(held_out.SAMPLE.read_bytes(), Limits(), loaded.info)
