"""The embedded model, loaded once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo import held_out
from serve_app.api import images
from serve_app.engine import Loaded, ReferenceGenerator, load
from serve_app.types import Limits, Pixels


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    return load("demo")


@pytest.fixture(scope="session")
def generator(loaded: Loaded) -> Iterator[ReferenceGenerator]:
    engine = ReferenceGenerator(loaded)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def sample(loaded: Loaded) -> Pixels:
    return images.read(held_out.SAMPLE.read_bytes(), Limits(), loaded.info)
