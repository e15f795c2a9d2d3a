"""The engine's and the admission's numbers as metrics, on the port where Ray exports its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ray.serve import metrics

from serve_app.args import AppArgs

PREFIX = "caption_serve_"

_TOTALS = {
    "steps": "steps of the decode engine",
    "tokens": "tokens chosen, one for each row and step",
    "groups_finished": "generate jobs that were finished",
    "groups_failed": "generate jobs that failed",
    "groups_dropped": "generate jobs that were cancelled or out of time",
    "wait_s": "seconds that jobs waited for rows, summed",
    "image_hits": "images that were encoded already",
    "image_misses": "images that had to be encoded",
    "encode_s": "seconds in the vision encoder",
    "forward_s": "seconds in decoder steps",
    "search_s": "seconds in the choice of tokens",
}
_NOW = {
    "waiting": "generate jobs that wait for rows",
    "rows": "rows in use",
    "max_rows": "rows that the engine has",
    "image_bytes": "bytes of encoded images",
    "cache_bytes": "bytes of self-attention caches",
}


_REMOTE_TOTALS = {
    "requests": "requests to the captioner's server",
    "failures": "requests that it failed",
    "prompt_tokens": "tokens of prompts and images, as the server counts them",
    "completion_tokens": "tokens of answers, as the server counts them",
}


class CounterMetrics:
    """Exports the numbers of a captioner; Serve adds the tags deployment and replica."""

    def __init__(self, kind: str, totals: Mapping[str, str], now: Mapping[str, str]) -> None:
        """`totals` and `now`: name → what it counts, from the start or at the moment."""
        self._totals = {name: metrics.Counter(f"{PREFIX}{kind}_{name}", text) for name, text in totals.items()}
        self._now = {name: metrics.Gauge(f"{PREFIX}{kind}_{name}", text) for name, text in now.items()}
        self._told = dict.fromkeys(totals, 0.0)

    @classmethod
    def of(cls, args: AppArgs) -> CounterMetrics:
        """Those of the engine that these settings ask for."""
        if args.engine == "openai":
            return cls("remote", _REMOTE_TOTALS, {})
        return cls("engine", _TOTALS, _NOW)

    def update(self, counters: Any) -> None:
        for field in fields(counters):
            value = float(getattr(counters, field.name))
            if field.name in self._now:
                self._now[field.name].set(value)
            elif value > self._told[field.name]:
                self._totals[field.name].inc(value - self._told[field.name])
                self._told[field.name] = value


class AdmissionMetrics:
    """Exports what an ingress replica has let in and may let in (rows)."""

    def __init__(self) -> None:
        self._work = metrics.Gauge(f"{PREFIX}admitted_work", "rows of the requests in progress")
        self._capacity = metrics.Gauge(f"{PREFIX}admission_capacity", "rows that may be in progress")
        self._shed = metrics.Counter(f"{PREFIX}requests_shed", "requests rejected with a time to retry after")
        self._told = 0

    def update(self, work: int, capacity: float, shed: int) -> None:
        self._work.set(work)
        self._capacity.set(capacity)
        if shed > self._told:
            self._shed.inc(shed - self._told)
            self._told = shed
