"""Files that visitors upload, as they were sent: Gradio neither decodes nor converts them.

Events that take files are registered with `preprocess=False`, so handlers get Gradio's payloads; it has moved the files
into its own directory by then, and `uploaded` takes none from anywhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve_app.errors import InvalidRequest
from serve_app.ui.environment import FILES


@dataclass(frozen=True)
class Upload:
    """A file that a visitor sent."""

    path: Path
    name: str

    def read(self) -> bytes:
        """Raises `OSError` when it has been cleared away."""
        return self.path.read_bytes()


def uploaded(payload: Any) -> Upload | None:
    """The file that a component's payload names. Raises `InvalidRequest` for one that no visitor sent."""
    if not isinstance(payload, Mapping) or not payload.get("path"):
        return None
    path = Path(str(payload["path"])).resolve()
    if not path.is_relative_to(FILES.resolve()):
        raise InvalidRequest("The file was not uploaded here.")
    return Upload(path, Path(str(payload.get("orig_name") or path.name)).name)


def all_uploaded(payload: Any) -> list[Upload]:
    """The files of a component that takes several. Raises as `uploaded` does."""
    entries = payload if isinstance(payload, list) else [payload]
    return [upload for entry in entries if (upload := uploaded(entry)) is not None]
