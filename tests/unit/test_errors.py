"""The classes of errors, and what is said of them."""

from __future__ import annotations

import pickle

import pytest

from serve_app import errors


def drawn(kind: type[errors.CaptionServeError], depth: int) -> list[tuple[int, str, int]]:
    """(depth, name, status) of a class and all below it."""
    ours = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [(depth, kind.__name__, kind.status), *(line for each in ours for line in drawn(each, depth + 1))]


def test_the_docstring_draws_the_tree_with_its_statuses() -> None:
    found = []
    for line in (errors.__doc__ or "").splitlines():
        if line.startswith("    "):
            name, status, *_ = line.split()
            found.append(((len(line) - len(line.lstrip())) // 2 - 2, name, int(status)))
    wanted = drawn(errors.CaptionServeError, 0)
    assert sorted(found) == sorted(wanted)
    parents = {}
    for lines in (found, wanted):
        path: list[str] = []
        for depth, name, _ in lines:
            path = [*path[:depth], name]
            assert parents.setdefault(name, path) == path


def test_a_slug_is_the_name_in_words() -> None:
    assert errors.ImageTooLarge("").slug == "image-too-large"
    assert errors.ModelError.slug == "model-error"


@pytest.mark.parametrize("kind", [*errors.subclasses()])
def test_errors_cross_processes(kind: type[errors.CaptionServeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("Why.")))
    assert (type(error), error.message, error.status) == (kind, "Why.", kind("Why.").status)
