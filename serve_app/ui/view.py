"""What is known of one request, from its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from serve_app.errors import CaptionServeError

Event = dict[str, Any]
Status = Literal["empty", "running", "failed", "done"]


@dataclass
class View:
    """A request as the page shows it."""

    status: Status = "empty"
    start: Event | None = None
    variants: dict[int, Event] = field(default_factory=dict)
    merged: bool = False
    extension: Event | None = None
    rounds: dict[int, Event] = field(default_factory=dict)
    result: Event | None = None
    error: CaptionServeError | str | None = None
    """A key of the page's texts, or what the service raised."""

    def add(self, event: Event) -> None:
        match event["event"]:
            case "start":
                self.start = event
            case "variant":
                self.variants[event["index"]] = event
            case "merge":
                self.merged = True
            case "extension":
                self.extension = event
            case "round":
                self.rounds[event["round"]] = event
            case "result":
                self.result = event
                self.status = "done"

    def fail(self, error: CaptionServeError | str) -> None:
        self.status = "failed"
        self.error = error

    @property
    def share_done(self) -> float:
        """Of the steps that were announced, 0 to 1."""
        if self.start is None:
            return 0.0
        steps: int = len(self.start["prompts"]) + 1 + max(0, self.start["rounds"] - 1)
        return min(1.0, (len(self.variants) + self.merged + len(self.rounds)) / steps)
