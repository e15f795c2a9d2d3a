"""Questions, matches, filters and embeddings over HTTP, with models that answer by a rule."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from serve_app.client import AsyncCaptionServe
from serve_app.errors import (
    DeadlineExceeded,
    GenerationFailed,
    GeneratorUnavailable,
    InvalidOption,
    NotDeployed,
    PromptTooLong,
)
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, TaskService
from serve_app.task_types import Answer
from serve_app.types import Generated, Match, ModelInfo, Pixels
from tests.pictures import encoded, picture
from tests.unit.fakes import CLASSIC, INFO, RuleGenerator
from tests.unit.test_api import PNG, assert_problem, echo

TINY = ModelInfo("tiny", 4, 4, 512, "float32", "cpu")


class RuleMatchModel:
    """Texts with "dog" match; vectors count letters."""

    async def info(self) -> ModelInfo:
        return TINY

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        assert (pixels.height, pixels.width) == (4, 4), "read at the matcher's own size"
        if any("broken" in text for text in texts):
            raise GenerationFailed("The matcher replica failed.")
        return [Match(0.9 if "dog" in text else 0.1, 0.5 if similarity else None) for text in texts]

    async def embed_image(self, pixels: Pixels, timeout_s: float | None = None) -> list[float]:
        return [1.0, 0.0]

    async def embed_texts(self, texts: Sequence[str], timeout_s: float | None = None) -> list[list[float]]:
        return [[math.cos(len(text)), math.sin(len(text))] for text in texts]


class RuleAnswerer:
    async def info(self) -> ModelInfo:
        return INFO

    async def answers(self, pixels: Pixels, questions: Sequence[str], timeout_s: float | None = None) -> list[Answer]:
        if "long?" in questions:
            raise PromptTooLong("The question has 600 tokens and the model takes 512.")
        if "gone?" in questions:
            raise GeneratorUnavailable("No answerer replica could be reached.")
        return [Answer(f"{question.split()[-1]} yes", 0.75) for question in questions]


@asynccontextmanager
async def api(deployed: bool = True, limits: Limits = CLASSIC) -> AsyncIterator[httpx.AsyncClient]:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), limits)
    tasks = TaskService(service, RuleMatchModel(), RuleAnswerer()) if deployed else None
    transport = httpx.ASGITransport(create_app(service, tasks), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    service.close()


TEXT = base64.b64encode(PNG).decode()


async def test_a_question_as_form_raw_and_json() -> None:
    async with api() as client:
        answers = [
            await client.post("/v1/answers", files={"image": PNG}, data={"question": "is there a dog?"}),
            await client.post(
                "/v1/answers?question=is+there+a+dog%3F", content=PNG, headers={"content-type": "image/png"}
            ),
            await client.post("/v1/answers", json={"image": TEXT, "question": " is there a dog? "}),
        ]
    assert [answer.status_code for answer in answers] == [200] * 3
    bodies = [{**answer.json(), "id": ""} for answer in answers]
    found = {"question": "is there a dog?", "answer": "dog? yes", "probability": 0.75}
    assert bodies == [{"id": "", "model": "fake", **found, "answers": [found]}] * 3


async def test_several_questions_are_one_call() -> None:
    questions = ["is there a dog?", "a cat?"]
    async with api() as client:
        form = await client.post("/v1/answers", files={"image": PNG}, data={"questions": questions})
        body = (await client.post("/v1/answers", json={"image": TEXT, "questions": questions})).json()
        none = await client.post("/v1/answers", json={"image": TEXT})
        both = await client.post("/v1/answers", json={"image": TEXT, "question": "a?", "questions": ["b?"]})
        many = await client.post("/v1/answers", json={"image": TEXT, "questions": ["a?"] * 65})
    assert [(found["question"], found["answer"]) for found in body["answers"]] == [
        ("is there a dog?", "dog? yes"),
        ("a cat?", "cat? yes"),
    ]
    assert form.json()["answers"] == body["answers"]
    assert (body["question"], body["answer"]) == ("is there a dog?", "dog? yes")
    for refused in (none, both):
        assert "give `question` or `questions`" in assert_problem(refused, 422)["detail"]
    assert "questions: 65 were given" in assert_problem(many, 422)["detail"]


async def test_matches_keep_the_order_of_the_texts() -> None:
    async with api() as client:
        body = (await client.post("/v1/matches", json={"image": TEXT, "texts": ["a cat", "a dog"]})).json()
        form = (await client.post("/v1/matches", files={"image": PNG}, data={"texts": ["a cat", "a dog"]})).json()
    assert (
        body["matches"]
        == form["matches"]
        == [
            {"text": "a cat", "probability": 0.1, "similarity": 0.5},
            {"text": "a dog", "probability": 0.9, "similarity": 0.5},
        ]
    )
    assert body["model"] == "tiny"


async def test_filter_keeps_what_passes_and_writes_a_caption_only_where_nothing_does() -> None:
    async with api() as client:
        some = (await client.post("/v1/filters", json={"image": TEXT, "texts": ["a cat", "a dog"]})).json()
        none = (await client.post("/v1/filters", json={"image": TEXT, "texts": ["a cat"]})).json()
        bare = (await client.post("/v1/filters", json={"image": TEXT, "texts": ["a cat"], "improve": False})).json()
        low = (await client.post("/v1/filters", json={"image": TEXT, "texts": ["a cat"], "floor": 0.05})).json()
    assert [text["keep"] for text in some["texts"]] == [False, True]
    assert (some["caption"], bare["caption"], low["caption"]) == (None, None, None)
    assert "brown dog" in none["caption"]
    assert none["caption_score"] == 0.9
    assert low["texts"][0]["keep"]


async def test_verdicts_stand_when_the_new_caption_fails() -> None:
    """They were lost with it: a full captioner made a 503 of texts that had been weighed."""
    generator = RuleGenerator(echo)

    async def generate(*_: object) -> list[Generated]:
        raise GeneratorUnavailable("No caption replica could be reached.")

    generator.generate = generate  # type: ignore[method-assign]
    service = CaptionService(CaptionPipeline(generator), CLASSIC)
    found = await TaskService(service, RuleMatchModel()).filter(PNG, {"texts": ["a cat"]})
    service.close()
    assert [(text.text, text.keep) for text in found.texts] == [("a cat", False)]
    assert found.caption is None
    assert found.degraded == ["caption: No caption replica could be reached."]


async def test_images_of_vectors_are_fetched_within_the_requests_time_and_after_its_check() -> None:
    """All were fetched one after the other before options were looked at and time began to run."""
    fetched: list[str] = []

    async def fetch(image: str) -> bytes:
        fetched.append(image)
        await asyncio.sleep(10)
        return PNG

    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), CLASSIC)
    tasks = TaskService(service, RuleMatchModel())
    with pytest.raises(InvalidOption):
        await tasks.embed(["a"], {"x": 1}, fetch)
    assert fetched == []
    with pytest.raises(DeadlineExceeded):
        await tasks.embed(["a", "b"], {"timeout_s": 0.05}, fetch)
    assert fetched == ["a", "b"]
    service.close()


async def test_embeddings_in_openais_shape_by_its_own_client() -> None:
    async with api() as http:
        client = openai.AsyncOpenAI(base_url="http://test/v1", api_key="none", http_client=http)
        found = await client.embeddings.create(model="tiny", input=["a", "ab"])
        plain = await http.post("/v1/embeddings", json={"input": "a", "images": [TEXT], "encoding_format": "float"})
        packed = await http.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"})
    assert [entry.embedding for entry in found.data] == [
        pytest.approx([math.cos(length), math.sin(length)], abs=1e-6) for length in (1, 2)
    ]
    assert [entry["embedding"] for entry in plain.json()["data"]] == [[math.cos(1), math.sin(1)], [1.0, 0.0]]
    assert plain.json()["dimension"] == 2
    raw = base64.b64decode(packed.json()["data"][0]["embedding"])
    assert struct.unpack("<2f", raw) == pytest.approx((math.cos(1), math.sin(1)))


@pytest.mark.parametrize(
    ("path", "values", "status", "words"),
    [
        ("answers", {}, 422, "question"),
        ("answers", {"question": " "}, 422, "question"),
        ("answers", {"question": "x" * 2001}, 422, "2000 characters"),
        ("answers", {"question": "long?"}, 422, "tokens"),
        ("answers", {"question": "a?", "detail": "low"}, 422, "no such option"),
        ("answers", {"question": "gone?"}, 503, "answerer"),
        ("answers", {"question": "a?", "timeout_s": 1e9}, 422, "timeout_s"),
        ("matches", {}, 422, "texts"),
        ("matches", {"texts": []}, 422, "texts"),
        ("matches", {"texts": ["a", 3]}, 422, "texts"),
        ("matches", {"texts": ["a"] * 65}, 422, "at most 64"),
        ("matches", {"texts": ["broken"]}, 500, "failed"),
        ("filters", {"texts": ["a"], "floor": 2}, 422, "floor"),
        ("filters", {"texts": ["a"], "detail": "huge"}, 422, "detail"),
    ],
)
async def test_bad_requests_are_told_apart(path: str, values: dict[str, Any], status: int, words: str) -> None:
    async with api() as client:
        problem = assert_problem(await client.post(f"/v1/{path}", json={"image": TEXT, **values}), status)
    assert words in problem["detail"]


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({}, 400),
        ({"input": []}, 400),
        ({"images": "x"}, 400),
        ({"images": [3]}, 400),
        ({"images": ["%%"]}, 400),
        ({"images": ["AAAA"]}, 415),
        ({"images": [TEXT] * 65}, 400),
        ({"input": ["a"] * 2049}, 400),
        ({"input": "a", "dimensions": 256}, 400),
        ({"input": "a", "x": 1}, 400),
        ({"input": [[57668, 53901]]}, 400),
        ({"input": [15339, 1917]}, 400),
        ({"images": ["http://127.0.0.1/a.png"]}, 400),
    ],
)
async def test_bad_embeddings(values: dict[str, Any], status: int) -> None:
    async with api() as client:
        problem = assert_problem(await client.post("/v1/embeddings", json=values), status)
    assert problem["error"]["type"] == "invalid_request_error"


async def test_token_ids_are_refused_by_their_name_and_null_is_the_default() -> None:
    """LangChain sends token ids unless it is told not to; the error was "input.str: Input should be a valid string"."""
    async with api() as client:
        ids = await client.post("/v1/embeddings", json={"input": [[57668, 53901]]})
        null = await client.post("/v1/embeddings", json={"input": "a", "encoding_format": None})
    assert "Token ids are of another model; send texts" in assert_problem(ids, 400)["detail"]
    assert "check_embedding_ctx_length=False" in ids.json()["detail"]
    assert isinstance(null.json()["data"][0]["embedding"], list)


async def test_vectors_are_made_of_what_openai_takes() -> None:
    """100 texts (LlamaIndex), an empty text, a long one and the model's own dimensions were refused."""
    async with api() as client:
        for given in (
            {"input": ["a"] * 2048},
            {"input": ["", "a"]},
            {"input": "a" * 50_000},
            {"input": "a", "dimensions": 2},
        ):
            answer = await client.post("/v1/embeddings", json=given)
            assert answer.status_code == 200, answer.text
            texts = given["input"] if isinstance(given["input"], list) else [given["input"]]
            assert [each["index"] for each in answer.json()["data"]] == list(range(len(texts)))


async def test_a_broken_image_is_400_at_every_task() -> None:
    broken = encoded(picture(), "PNG")[:60]
    async with api() as client:
        for path, data in (
            ("answers", {"question": "a?"}),
            ("matches", {"texts": ["a"]}),
            ("filters", {"texts": ["a"]}),
        ):
            assert_problem(await client.post(f"/v1/{path}", files={"image": broken}, data=data), 400)
        assert_problem(await client.post("/v1/embeddings", content=b"{"), 415)
        assert_problem(
            await client.post("/v1/embeddings", content=b"{", headers={"content-type": "application/json"}), 400
        )


async def test_what_is_not_deployed_says_how_to_turn_it_on() -> None:
    async with api(deployed=False) as client:
        for path, setting in (
            ("answers", "answerer"),
            ("matches", "matcher"),
            ("filters", "matcher"),
            ("embeddings", "matcher"),
        ):
            problem = assert_problem(await client.post(f"/v1/{path}", json={"image": TEXT}), 404)
            assert problem["type"].endswith(":not-deployed")
            assert f"`{setting}`" in problem["detail"]


async def test_the_python_client_has_all_of_them() -> None:
    async with api() as http, AsyncCaptionServe("http://test", http_client=http) as client:
        assert (await client.answer(PNG, "is there a dog?")).answer == "dog? yes"
        several = await client.answer(PNG, ["a dog?", "a cat?"])
        assert [found.answer for found in several.answers] == ["dog? yes", "cat? yes"]
        assert [match.probability for match in (await client.match(PNG, ["a dog"])).matches] == [0.9]
        assert (await client.filter(PNG, ["a cat"], improve=False)).texts[0].keep is False
        assert await client.embed([PNG], ["a"]) == [[1.0, 0.0], [math.cos(1), math.sin(1)]]
    async with api(deployed=False) as http, AsyncCaptionServe("http://test", http_client=http, max_retries=0) as client:
        with pytest.raises(NotDeployed):
            await client.answer(PNG, "a?")
