"""Several captioners in the running service: each fails in its own way, and the caption comes all the same."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from lab import held_out
from tests.serve.conftest import Service
from tests.unit.test_polish import chat, says

SCENE = held_out.SAMPLE.read_bytes()
NAMES = ("blip", "instant", "serve", "vlm")


def caption(service: Service, **options: Any) -> dict[str, Any]:
    with service.client() as client:
        answer = client.post("/committee/v1/captions", files={"image": SCENE}, data={"detail": "low", **options})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def recovered(service: Service) -> dict[str, Any]:
    """An answer of all captioners; one that failed before is left alone for a while."""
    deadline = time.monotonic() + 60
    while True:
        body = caption(service)
        if not body["degraded"]:
            return body
        assert time.monotonic() < deadline, body["degraded"]
        time.sleep(2)


def test_four_captioners_make_one_caption_and_each_is_named(service: Service) -> None:
    with chat(lambda _: says("Sure! This image shows a purple zeppelin."), service.vlm_port) as (_, asked):
        body = recovered(service)
        assert body["model"] == "blip+instant+serve+vlm"
        assert {variant["captioner"] for variant in body["variants"]} == {*NAMES}
        assert [variant["captioner"] for variant in body["variants"]].count("vlm") == 3
        assert any("zeppelin" in variant["text"] for variant in body["variants"] if variant["captioner"] == "vlm")
        assert {clause["source"]["captioner"] for clause in body["clauses"]} <= {*NAMES}
        assert asked, "the endpoint was asked"
        again = caption(service)
        assert {**again, "id": 0, "timings_ms": 0} == {**body, "id": 0, "timings_ms": 0}
        only = caption(service, use=["blip", "serve"])
        assert only["model"] == "blip+serve"


@pytest.mark.parametrize(
    "fault",
    ["hangs", "is gone", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fails", "is full", "raves"))],
)
def test_a_captioner_by_url_that_fails_is_named(service: Service, fault: str) -> None:
    def answer(_: Any) -> tuple[int, bytes]:
        if fault == "hangs":
            time.sleep(20)
        status = {"fails": 500, "is full": 429}.get(fault, 200)
        return status, b"{" if fault == "raves" else says("a dog")[1]

    if fault == "is gone":
        body, took_s = _timed(service)
    else:
        with chat(answer, service.vlm_port):
            body, took_s = _timed(service)
    assert [line.split(":")[0] for line in body["degraded"]] == ["vlm"], body["degraded"]
    assert body["caption"]
    assert took_s < 15


def _timed(service: Service) -> tuple[dict[str, Any], float]:
    begun = time.monotonic()
    return caption(service), time.monotonic() - begun


def test_a_captioner_whose_replica_is_killed_comes_back(service: Service) -> None:
    with chat(lambda _: says("a dog"), service.vlm_port):
        before = recovered(service)
        (process,) = service.replica_processes("Captioner-blip", "committee")
        process.kill()
        body = caption(service)
        assert body["caption"]
        assert all(line.startswith("blip") for line in body["degraded"])
        after = recovered(service)
    assert after["caption"] == before["caption"]


def test_the_captioners_are_listed_and_chosen_by_openai_s_clients(service: Service) -> None:
    with service.client() as client:
        models = client.get("/committee/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["+".join(NAMES), *NAMES]
        described: httpx.Response = client.get("/committee/v1/models/serve")
        assert described.json()["captioners"] == ["serve"]
        refused = client.post("/committee/v1/captions", files={"image": SCENE}, data={"use": "nobody"})
    assert refused.status_code == 422
    assert "blip, instant, serve, vlm" in refused.json()["detail"]
