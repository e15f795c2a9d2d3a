"""The folder under tests/ is the marker of what lies in it."""

from __future__ import annotations

from pathlib import Path

import pytest

MARKERS = ("unit", "engine", "serve", "cluster", "gpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    root = Path(__file__).parent
    for item in items:
        folder = item.path.relative_to(root).parts[0]
        if folder in MARKERS:
            item.add_marker(getattr(pytest.mark, folder))
    # Clusters last: a broken rule should be told within seconds.
    items.sort(key=lambda item: MARKERS.index(item.path.relative_to(root).parts[0]))
