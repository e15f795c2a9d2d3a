"""This package's records in Serve's log."""

from __future__ import annotations

import logging


def log_with_serve() -> None:
    """Sends the package's records where Serve's own of this replica go, at their level and in their format.

    Without it Python writes warnings to stderr, which Serve takes for information, and drops the rest.
    """
    ours = logging.getLogger("serve_app")
    ours.parent = logging.getLogger("ray.serve")
    ours.propagate = True
