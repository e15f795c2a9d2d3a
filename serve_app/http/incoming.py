"""Bodies on their way in: bounded in memory and in time, so that slow or many ones leave others served."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive, Scope

from serve_app.errors import ImageTooLarge, UploadTooSlow
from serve_app.service.budget import Budget

JSON_COPIES = 3
"""Of a JSON body in memory: as it came, parsed, and its images decoded from base64."""
GRACE_S = 30.0
"""Every body may take this long."""
LEAST_BYTES_PER_S = 50_000
"""A larger one may take longer, at this rate."""
SLOW_S = 2.0
MOST_SLOW = 64
"""Bodies that take longer than `SLOW_S`; of more the oldest ones are given up, since each holds one of the replica's
`max_ongoing_requests` (150)."""


class Uploads:
    """The bodies that are being read in this process. For one event loop."""

    def __init__(self) -> None:
        self._running: dict[Incoming, None] = {}

    def begin(self, incoming: Incoming) -> None:
        self._running[incoming] = None
        # Later, whether or not another body begins: the proxy keeps further requests back while all places are taken.
        asyncio.get_running_loop().call_later(1.1 * SLOW_S, self._give_up_oldest)

    def _give_up_oldest(self) -> None:
        now = time.monotonic()
        slow = [each for each in self._running if now - each.start > SLOW_S]
        for each in slow[: max(0, len(slow) - MOST_SLOW)]:
            each.give_up()

    def end(self, incoming: Incoming) -> None:
        self._running.pop(incoming, None)


class Incoming:
    """The body of one request. It takes of a budget as much as it declares at once, or more as it comes."""

    def __init__(
        self, scope: Scope, receive: Receive, uploads: Uploads, budget: Budget, most: int, accepted: int
    ) -> None:
        """`most` bytes of all bodies together, `accepted` of one."""
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        self.start = time.monotonic()
        self._copies = JSON_COPIES if b"json" in headers.get(b"content-type", b"").lower() else 1
        self._declared = int(declared) if declared.isdigit() else 0
        self._receive = receive
        self._uploads = uploads
        self._budget = budget
        self._most = most
        self._accepted = accepted
        self._given_up = False
        self._come = 0
        self._taken = 0
        self._complete = False
        self._timeout: asyncio.Timeout | None = None

    def take_declared(self) -> None:
        """Raises `ImageTooLarge` for more than any request may have, and `Overloaded`."""
        if self._declared > self._accepted:
            raise ImageTooLarge(f"The body has {self._declared} bytes; at most {self._accepted} are accepted.")
        self._take(self._declared)
        self._uploads.begin(self)

    async def receive(self) -> Message:
        """Raises `UploadTooSlow`, and `Overloaded` for a body without its length that finds no memory left."""
        if self._complete:
            return await self._receive()
        left_s = self.start + GRACE_S + self._come / LEAST_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(0.0 if self._given_up else max(0.0, left_s)) as self._timeout:
                message = await self._receive()
        except TimeoutError:
            raise UploadTooSlow("The request's body came too slowly.") from None
        finally:
            self._timeout = None
        self._come += len(message.get("body", b""))
        if self._come > self._declared:
            self._take(self._come)
        if not message.get("more_body", False):
            self._complete = True
            self._uploads.end(self)
        return message

    def give_up(self) -> None:
        """Ends the wait for the rest of the body."""
        self._given_up = True
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def close(self) -> None:
        """The request has ended."""
        self._complete = True
        self._uploads.end(self)
        self._budget.give_back(self._taken)
        self._taken = 0

    def _take(self, size: int) -> None:
        more = size * self._copies - self._taken
        if more > 0:
            self._budget.take(more, self._most)
            self._taken += more
