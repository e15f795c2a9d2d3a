"""How much work one ingress replica may let in, as the deployments grow and shrink."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from ray import serve
from ray.serve.schema import DeploymentStatusOverview

logger = logging.getLogger("ray.serve")

REFRESH_S = 5.0
"""Replicas come within tens of seconds; a count this old is good enough."""


class Capacity:
    """This ingress replica's share of the rows of each captioner's replicas, times `depth`.

    The number of serving replicas of all deployments is asked for in a thread, since the question blocks
    while the controller restarts; until it is answered the last count holds. A deployment scaled to zero
    counts as one replica, so that the first requests are let in and wake it.
    """

    def __init__(self, captioners: Mapping[str, tuple[str, int]]) -> None:
        """`captioners`: name → (its deployment, rows of a replica)."""
        self.depth = 1.0
        self._captioners = captioners
        self._serving = dict.fromkeys(captioners, 1)
        self._ingresses = 1
        self._closing = threading.Event()
        threading.Thread(target=self._follow, name="capacity", daemon=True).start()

    def __call__(self, captioner: str) -> float:
        """Rows of admitted work of a captioner, see `serve_app.steps.Captioner.work`."""
        return self._serving[captioner] * self._captioners[captioner][1] * self.depth / self._ingresses

    @property
    def rows(self) -> float:
        """Rows of admitted work of all captioners."""
        return sum(map(self, self._captioners))

    def ingresses(self) -> int:
        """Ingress replicas that share what is counted for all of them."""
        return self._ingresses

    def close(self) -> None:
        self._closing.set()

    def _follow(self) -> None:
        context = serve.get_replica_context()
        while not self._closing.is_set():
            try:
                deployments = serve.status().applications[context.app_name].deployments
                self._serving = {
                    name: _serving(deployments[deployment]) for name, (deployment, _) in self._captioners.items()
                }
                self._ingresses = _serving(deployments[context.deployment])
            except Exception:
                # A missing answer must not end the thread; the next one will do.
                logger.warning("the number of replicas is unknown for now", exc_info=True)
            self._closing.wait(REFRESH_S)


def _serving(deployment: DeploymentStatusOverview) -> int:
    """Replicas that take requests, those that a restarted controller has yet to recognise among them."""
    away = ("STARTING", "STOPPING", "STOPPED")
    return max(1, sum(count for state, count in deployment.replica_states.items() if state not in away))
