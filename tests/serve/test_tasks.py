"""Grounded captions, questions, matching, filtering and vectors by the service of `make run`."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from mcp.client.client import Client

from lab import held_out
from lab.objects import nouns_in
from serve_app.client import CaptionServe
from tests.serve.conftest import Service

SCENE = held_out.SAMPLE.read_bytes()
TRUTH = {"hamburger", "candle", "boat", "airplane"}


def test_grounded_is_the_default_and_every_clause_has_a_score(service: Service) -> None:
    with service.client() as client:
        body = client.post("/v1/captions", files={"image": SCENE}).json()
    assert body["degraded"] == []
    assert nouns_in(body["caption"]) <= TRUTH
    assert body["clauses"]
    for clause in body["clauses"]:
        assert 0 <= clause["score"] <= 1
        assert body["caption"][clause["start"] : clause["end"]] == clause["text"]
        assert clause["source"]["captioner"] == body["model"]
    assert all(variant["score"] is not None for variant in body["variants"])


def test_without_a_matcher_nothing_is_missing_and_the_fingerprint_says_so(service: Service) -> None:
    with service.client() as client:
        body = client.post("/spread/v1/captions", files={"image": SCENE}, data={"detail": "low"}).json()
        refused = client.post("/spread/v1/matches", files={"image": SCENE}, data={"texts": ["a dog"]})
    assert body["caption"]
    assert body["degraded"] == []
    assert body["fingerprint"].split(".")[2] == "none"
    assert refused.status_code == 404
    assert "`matcher`" in refused.json()["detail"]


def test_the_python_client_asks_compares_filters_and_embeds(service: Service) -> None:
    with CaptionServe(service.url) as client:
        assert client.answer(SCENE, "is there a hamburger?").answer == "yes"
        assert client.answer(SCENE, "is there a zebra?").answer == "no"
        right, wrong = client.match(SCENE, ["a hamburger", "a zebra"]).matches
        assert right.probability > 0.5 > wrong.probability
        kept = client.filter(SCENE, ["a hamburger", "two zebras"])
        assert [text.keep for text in kept.texts] == [True, False]
        assert kept.caption is None
        made = client.filter(SCENE, ["a zebra on the green grass"], detail="low")
        assert made.caption
        assert nouns_in(made.caption) <= TRUTH
        image, *texts = np.array(client.embed([SCENE], ["a hamburger and a candle", "a zebra"]))
        assert abs(np.linalg.norm(image) - 1) < 1e-4
        assert image @ texts[0] > image @ texts[1]


def test_agents_ask_and_compare(service: Service) -> None:
    image = base64.b64encode(SCENE).decode()

    async def ask() -> tuple[Any, Any]:
        async with Client(f"{service.url}/mcp") as client:
            return (
                await client.call_tool("answer_question", {"image": image, "question": "is there a boat?"}),
                await client.call_tool("match_texts", {"image": image, "texts": ["a boat", "a zebra"]}),
            )

    answer, matches = asyncio.run(ask())
    assert answer.content[0].text == "yes"
    found = matches.structured_content["matches"]
    assert found[0]["probability"] > found[1]["probability"]


JOB = """
import json, sys
import ray
from ray import serve
ray.init(address="auto", log_to_driver=False)
captions = serve.get_app_handle("captions")
image = open(sys.argv[1], "rb").read()
answer = captions.answer.remote(image, "is there a boat?").result()["answer"]
match = captions.match.remote(image, ["a boat"]).result()["matches"][0]["probability"]
keep = captions.filter.remote(image, ["a boat"], {"improve": False}).result()["texts"][0]["keep"]
vectors = captions.embed.remote([image], ["a boat"]).result()["data"]
print(json.dumps([answer, match, keep, len(vectors)]))
"""


def test_a_handle_has_all_of_them(service: Service) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(held_out.SAMPLE)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer, match, keep, vectors = json.loads(done.stdout.splitlines()[-1])
    assert (answer, keep, vectors) == ("yes", True, 2)
    assert match > 0.5


@pytest.mark.extended
def test_a_killed_matcher_costs_no_caption(service: Service) -> None:
    for process in service.replica_processes("Matcher"):
        process.kill()
    with service.client(120) as client:
        body = client.post("/v1/captions", files={"image": SCENE}, data={"detail": "low", "seed": "5"})
        assert body.status_code == 200, body.text
        assert body.json()["caption"]
        losses = body.json()["degraded"]
        assert losses == [] or losses[0].startswith("matcher: ")
