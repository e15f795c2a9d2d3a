"""Callers told when what they asked for is done: signed as Standard Webhooks has it (standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

from serve_app.deadline import Deadline
from serve_app.errors import FetchFailed, FetchUnavailable, InvalidOption, UrlNotAllowed
from serve_app.limits import Limits
from serve_app.retry import Retries, retried
from serve_app.service.fetch import Fetcher, check_webhook

SECRET_VARIABLE = "CAPTION_SERVE_WEBHOOK_SECRET"
"""Environment variable of the secret, `whsec_` and base64."""
LEAST_BYTES = 24
"""By the standard."""
TRIED_S = 3600.0
"""How long a webhook is tried again if it does not answer with 2xx."""


class Webhooks:
    """Calls webhooks at hosts that `webhook_hosts` allows."""

    def __init__(self, fetcher: Fetcher, secret: str | None = None) -> None:
        """Raises `InvalidOption` for a secret that is none."""
        self._fetcher = fetcher
        self._signer = None if secret is None else _signer(secret)

    def check(self, url: str, limits: Limits) -> None:
        """Raises `UrlNotAllowed`."""
        if self._signer is None:
            raise UrlNotAllowed(f"webhook: this service calls none ({SECRET_VARIABLE}).")
        check_webhook(url, limits)

    async def call(self, url: str, event_id: str, kind: str, data: Mapping[str, Any], limits: Limits) -> None:
        """Sends an event, again and again for `TRIED_S` if it is not taken. Raises the last failure."""
        self.check(url, limits)
        assert self._signer is not None
        signer = self._signer
        now = datetime.now(UTC)
        body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": data}, ensure_ascii=False)

        async def send() -> None:
            tried_at = datetime.now(UTC)
            headers = {
                "Content-Type": "application/json",
                "webhook-id": event_id,
                "webhook-timestamp": str(int(tried_at.timestamp())),
                "webhook-signature": signer.sign(event_id, tried_at, body),
            }
            try:
                await self._fetcher.post(url, body.encode(), headers, limits)
            except FetchFailed as error:  # a name that is not found may be so for a moment
                raise FetchUnavailable(error.message) from error

        await retried(send, Retries(math.inf, Deadline.after(TRIED_S)))


def _signer(secret: str) -> Webhook:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if len(key) < LEAST_BYTES:
        raise InvalidOption(f"{SECRET_VARIABLE}: a secret is whsec_ and the base64 of {LEAST_BYTES} bytes or more.")
    return Webhook(key)
