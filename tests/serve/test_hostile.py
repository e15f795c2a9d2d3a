"""Hostile requests over all doors of the running service."""

from __future__ import annotations

import httpx
import pytest

from tests import hostile_requests
from tests.serve.conftest import Service

pytestmark = pytest.mark.extended


GROWTH_BYTES = 30_000_000


def send_all(client: httpx.Client, root: str, requests: list[hostile_requests.Hostile]) -> list[str]:
    """What was answered with anything but 2xx or 4xx."""
    wrong = []
    for request in requests:
        headers = {name: value.encode("latin-1", "replace") for name, value in request.headers.items()}
        try:
            answer = client.request(request.method, root + request.path, content=request.content, headers=headers)
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            continue
        if answer.status_code // 100 not in (2, 4) or "Traceback" in answer.text:
            wrong.append(f"{request.name}: {answer.status_code} {answer.text[:300]}")
    return wrong


@pytest.mark.timeout(600)
def test_hostile_requests_get_2xx_and_4xx_and_the_memory_stays_flat(service: Service) -> None:
    requests = hostile_requests.everything()
    assert len(requests) >= 500

    def memory() -> int:
        processes = service.replica_processes("Ingress", "instant") + service.replica_processes("Captioner", "instant")
        return sum(process.memory_info().rss for process in processes)

    with service.client() as client:
        assert send_all(client, "/instant", requests) == []
        send_all(client, "/instant", requests)
        before = memory()
        assert send_all(client, "/instant", requests) == []
        assert memory() - before < GROWTH_BYTES
        assert client.get("/instant/healthz").text == "ok"
