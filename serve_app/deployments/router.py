"""The request router that keeps an image on its replica."""

from __future__ import annotations

from typing import Any

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

from serve_app.deployments import routed  # as a module: Ray copies the class by value, and what it names


class ImageAffinityRouter(ConsistentHashRouter):
    """Consistent hashing on `session_id` (the image's digest) that survives a fan-out.

    Handle calls that one request makes at the same time share their parent's internal request id, by
    which Ray 2.60 looks up the call to fulfil; one of them would be answered and its siblings wait
    for ever. Each call has its own metadata object, so the lookup here goes by identity.
    """

    def _fulfill_next_pending_request(self, replica: Any, request_metadata: Any = None) -> None:
        for pending in self._pending_requests_to_fulfill:
            if pending.metadata is request_metadata and not pending.future.done():
                self._record_queue_wait_time(pending)
                pending.future.set_result(replica)
                self._remove_pending_request_from_indices(pending)
                return

    def on_request_routed(self, pending_request: Any, replica_id: Any, result: Any) -> None:
        super().on_request_routed(pending_request, replica_id, result)
        session, replica = pending_request.metadata.session_id, self.curr_replicas.get(replica_id)
        if session and replica is not None:
            routed.ROUTES.add(f"{replica_id.deployment_id.name}:{session}", replica_id.unique_id, replica.node_id)
