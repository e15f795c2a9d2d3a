"""Who runs and who waits: first come, first served, within a number of rows and of cache bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from serve_app.engine.image_cache import EncodedImage
from serve_app.engine.parameters import SearchParameters
from serve_app.engine.search import Hypothesis
from serve_app.errors import CaptionServeError, InvalidOption
from serve_app.types import Pixels


@dataclass(eq=False, slots=True)
class Group:
    """The beams of one generate request. Times in seconds of `time.monotonic`."""

    pixels: Pixels
    prompt: list[int]
    """Token ids, the start token first."""
    parameters: SearchParameters
    seed: int
    finish: Callable[[list[Hypothesis] | CaptionServeError], None]
    """Called once, in any thread."""
    abandoned: Callable[[], bool] = field(default=lambda: False)
    """Whether nobody waits for the result any more."""
    deadline: float | None = None
    submitted: float = 0.0
    image: EncodedImage | None = None

    @property
    def rows(self) -> int:
        return self.parameters.rows

    @property
    def nodes(self) -> int:
        """Most tokens that its beams can ever descend from at once: when no two share an answer."""
        return len(self.prompt) + self.rows * (self.parameters.max_length - len(self.prompt))


class Scheduler:
    """Counts rows and reserved bytes; knows nothing of tensors."""

    def __init__(self, max_rows: int, max_bytes: int, node_bytes: int) -> None:
        """`node_bytes`: size of one token's keys and values."""
        self.max_rows, self.max_bytes = max_rows, max_bytes
        self._node_bytes = node_bytes
        self.waiting: deque[Group] = deque()
        self.rows = 0
        self.bytes = 0

    def submit(self, group: Group) -> None:
        """Puts a group at the end of the queue. Raises `InvalidOption` when it can never run."""
        if group.rows > self.max_rows:
            raise InvalidOption(
                f"The request needs {group.rows} rows (beams or sequences) and the engine has {self.max_rows}."
            )
        if self._needed(group) > self.max_bytes:
            raise InvalidOption(
                f"{group.rows} beams of up to {group.parameters.max_length} tokens may need "
                f"{self._needed(group) / 1e6:.0f} MB of cache and the engine has {self.max_bytes / 1e6:.0f} MB."
            )
        self.waiting.append(group)

    def next(self) -> Group | None:
        """The group at the head of the queue, when there is room for it now."""
        if not self.waiting:
            return None
        group = self.waiting[0]
        fits = self.rows + group.rows <= self.max_rows and self.bytes + self._needed(group) <= self.max_bytes
        return group if fits else None

    def admit(self) -> Group:
        """Takes the head of the queue and counts it as running."""
        group = self.waiting.popleft()
        self.rows += group.rows
        self.bytes += self._needed(group)
        return group

    def release(self, group: Group) -> None:
        """A running group ended."""
        self.rows -= group.rows
        self.bytes -= self._needed(group)

    def withdraw(self, ended: Callable[[Group], bool]) -> list[Group]:
        """Takes the waiting groups that `ended` says are over out of the queue."""
        gone = [group for group in self.waiting if ended(group)]
        if gone:
            self.waiting = deque(group for group in self.waiting if group not in gone)
        return gone

    def check_integrity(self, running: Iterable[Group]) -> None:
        groups = list(running)
        assert self.rows == sum(group.rows for group in groups), f"{self.rows} rows counted"
        assert self.bytes == sum(self._needed(group) for group in groups), f"{self.bytes} bytes counted"
        assert self.rows <= self.max_rows, f"{self.rows} of {self.max_rows} rows"
        assert self.bytes <= self.max_bytes, f"{self.bytes} of {self.max_bytes} bytes"

    def _needed(self, group: Group) -> int:
        return group.nodes * self._node_bytes
