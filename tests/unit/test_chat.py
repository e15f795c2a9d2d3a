"""The OpenAI-compatible endpoint, through the official client and as others call it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest

from serve_app.errors import GeneratorUnavailable
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, TaskService
from serve_app.steps import ONLY
from tests.unit.captioners import FINGERPRINT, LENGTH, STATEMENTS, TellingCaptioner, length_of
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, echo
from tests.unit.test_tasks import RuleAnswerer

URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


def message(*urls: str, text: str | None = "look") -> list[Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*([{"type": "text", "text": text}] if text else []), *parts]}]


def schema_of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True, **more}}


@asynccontextmanager
async def client(
    rule: Callable[[str], str | Exception] = echo, limits: Limits | None = None, rows: float = 1e9
) -> AsyncIterator[openai.AsyncOpenAI]:
    service = CaptionService(CaptionPipeline(RuleGenerator(rule)), limits, lambda _: rows)
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    http = httpx.AsyncClient(transport=transport, base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0) as found:
        yield found
    service.close()


async def test_image_is_captioned_and_usage_adds_up() -> None:
    async with client() as ai:
        answer = await ai.chat.completions.create(model="fake", messages=message(URI))
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    assert "a brown dog" in str(choice.message.content).lower()
    assert answer.model == "fake"
    assert answer.usage
    assert answer.usage.completion_tokens == len(str(choice.message.content).split())
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_prompts_are_asked_for_by_name_and_instructions_are_none() -> None:
    """The text of "What's in this image?" became the beginning of one of BLIP's captions."""
    generator = RuleGenerator(echo)
    service = CaptionService(CaptionPipeline(generator))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http) as ai:
        asked: dict[str, Any] = {"model": "caption-serve", "messages": message(URI, text="What's in this image?")}
        await ai.chat.completions.create(**asked)
        await ai.chat.completions.create(**asked, extra_body={"extra_prompts": ["the weather is"]})
    assert not any("What" in job.prompt for jobs in generator.calls for job in jobs)
    assert any(job.prompt == "the weather is" for jobs in generator.calls for job in jobs)
    service.close()


async def test_several_images_are_numbered_lines_and_n_gives_choices() -> None:
    async with client() as ai:
        answer = await ai.chat.completions.create(model="fake", messages=message(URI, URI), n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        lines = str(choice.message.content).splitlines()
        assert [line[:3] for line in lines] == ["1. ", "2. "]


@asynccontextmanager
async def telling() -> AsyncIterator[tuple[openai.AsyncOpenAI, TellingCaptioner]]:
    captioner = TellingCaptioner()
    service = CaptionService(captioner)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0) as found:
        yield found, captioner
    service.close()


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_shorter_answer_has_whole_sentences_and_says_so(name: str) -> None:
    async with telling() as (ai, _):
        short = await ai.chat.completions.create(model="fake", messages=message(URI), **{name: 12})
        whole = await ai.chat.completions.create(model="fake", messages=message(URI), **{name: 100})
    assert short.choices[0].message.content == "A dog lies on a couch. A cat sits by it."
    assert short.choices[0].finish_reason == "length"
    assert whole.choices[0].message.content == " ".join(STATEMENTS)
    assert whole.choices[0].finish_reason == "stop", "a notice of another kind is no length"


async def test_an_answer_that_stays_too_long_has_reached_its_length() -> None:
    """It said "stop", as if it kept to `max_tokens`."""
    service = CaptionService(CaptionPipeline(RuleGenerator(lambda _: "a dog")))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0) as ai:
        answer = await ai.chat.completions.create(model="fake", messages=message(URI), max_tokens=1)
    service.close()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("A dog.", "length")


async def test_a_caption_that_does_not_fit_is_not_cut() -> None:
    async with telling() as (ai, _):
        answer = await ai.chat.completions.create(model="fake", messages=message(URI), max_tokens=1)
    assert answer.choices[0].message.content == STATEMENTS[0]


async def test_a_streamed_answer_is_as_short_and_says_so() -> None:
    async with telling() as (ai, _):
        stream = await ai.chat.completions.create(model="fake", messages=message(URI), max_tokens=12, stream=True)
        choices = [choice for chunk in [chunk async for chunk in stream] for choice in chunk.choices]
    assert "".join(choice.delta.content or "" for choice in choices) == "A dog lies on a couch. A cat sits by it."
    assert choices[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("images", "more", "shares"),
    [
        (1, {}, [None]),
        (1, {"max_tokens": 7}, [7]),
        (3, {"max_tokens": 20}, [6, 6, 5]),
        (3, {"max_tokens": 2}, [1, 1, 1]),
        (2, {"extra_body": {"max_words": 5}}, [5, 5]),
        (2, {"max_tokens": 13, "extra_body": {"max_words": 5}}, [5, 5]),
        (2, {"max_tokens": 8, "extra_body": {"max_words": 5}}, [3, 3]),
    ],
)
async def test_images_share_the_words_of_an_answer(images: int, more: dict[str, Any], shares: list[int | None]) -> None:
    async with telling() as (ai, captioner):
        answer = await ai.chat.completions.create(model="fake", messages=message(*[URI] * images), **more)
    assert answer.choices
    assert Counter(options.max_words for options in captioner.asked) == Counter(shares)


async def test_length_and_tidiness_of_each_caption_are_fields_of_the_request() -> None:
    async with telling() as (ai, captioner):
        await ai.chat.completions.create(model="fake", messages=message(URI, URI), extra_body=LENGTH)
        await ai.chat.completions.create(model="fake", messages=message(URI))
    wanted = [LENGTH, LENGTH, {"max_words": None, "max_characters": None, "tidy": True}]
    assert [length_of(options) for options in captioner.asked] == wanted


async def test_stream_gives_role_text_reason_and_usage() -> None:
    async with client() as ai:
        plain = await ai.chat.completions.create(model="fake", messages=message(URI), n=2)
        stream = await ai.chat.completions.create(
            model="fake", messages=message(URI), n=2, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    for index in range(2):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(choice.delta.content or "" for choice in mine) == plain.choices[index].message.content
        assert mine[-1].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage


async def test_models_are_listed_and_found() -> None:
    async with client() as ai:
        assert [model.id async for model in await ai.models.list()] == ["fake"]
        assert (await ai.models.retrieve("fake")).id == "fake"
        with pytest.raises(openai.NotFoundError):
            await ai.models.retrieve("gpt-4o")
        with pytest.raises(openai.NotFoundError, match="not served here"):
            await ai.chat.completions.create(model="gpt-4o", messages=message(URI))


@pytest.mark.parametrize(
    ("messages", "more"),
    [
        ([], {}),
        (message("http://example.org/a.png"), {}),
        (message("nonsense!"), {}),
        (message(URI), {"n": 9}),
        (message(URI), {"n": 0}),
        (message(URI), {"max_tokens": 0}),
        (message(URI), {"extra_body": {"max_words": 0}}),
        (message(URI), {"extra_body": {"max_characters": 19}}),
        (message(URI), {"seed": -1}),
        (message(URI), {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        (message(URI), {"response_format": {"type": "yaml"}}),
        (message(URI), {"response_format": {"type": "json_schema", "json_schema": {"schema": {"properties": [1]}}}}),
        (message(URI), {"response_format": schema_of({"text": {}}, schema={"properties": {"a": {}}, "required": 3})}),
        (message(URI), {"response_format": schema_of({"count": {"type": "integer"}})}),
    ],
)
async def test_what_cannot_be_captioned_is_a_bad_request(messages: Any, more: dict[str, Any]) -> None:
    async with client() as ai:
        with pytest.raises(openai.BadRequestError) as caught:
            await ai.chat.completions.create(model="fake", messages=messages, **more)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["type"] == "invalid_request_error"
    problem = caught.value.response.json()
    assert problem["detail"] == problem["error"]["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "What's 1 + 1?"}],
        [
            {"role": "system", "content": "x"},
            {"role": "user", "content": [{"type": "text", "text": "Hey how's it going?"}]},
        ],
        [{"role": "assistant", "content": message(URI)[0]["content"]}],
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_without_an_image_says_what_the_service_does(messages: Any, stream: bool) -> None:
    """The set-up checks of Home Assistant, LiteLLM and Open WebUI got 400, and could not be set up."""
    async with client() as ai:
        answer = await ai.chat.completions.create(model="fake", messages=messages, stream=stream)
        if stream:
            said = "".join([chunk.choices[0].delta.content or "" async for chunk in answer])
        else:
            assert answer.choices[0].finish_reason == "stop"
            said = answer.choices[0].message.content
    assert said.startswith("This service describes images")
    async with client(limits=Limits(chat_without_image="reject")) as ai:
        with pytest.raises(openai.BadRequestError, match="add an image_url part"):
            await ai.chat.completions.create(model="fake", messages=messages, stream=stream)


async def test_harmless_parameters_are_ignored() -> None:
    async with client() as ai:
        answer = await ai.chat.completions.create(
            model="fake", messages=message(URI), temperature=0.5, top_p=0.9, stop=["x"], user="me", tools=[]
        )
    assert answer.choices


@pytest.mark.parametrize("stream", [False, True])
async def test_full_service_says_so_before_it_streams(stream: bool) -> None:
    limits = Limits(overload_status=429)
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), limits, lambda _: 1)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0) as ai:
        with service.admission.of(ONLY).admit(1), pytest.raises(openai.RateLimitError) as caught:
            await ai.chat.completions.create(model="fake", messages=message(URI), stream=stream)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    service.close()


async def test_lost_replicas_are_a_server_error_in_both_forms() -> None:
    def rule(prompt: str) -> Exception:
        return GeneratorUnavailable("Nobody is there.")

    async with client(rule) as ai:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="Nobody is there"):
                await ai.chat.completions.create(model="fake", messages=message(URI), stream=stream)


async def test_images_of_a_message_are_bounded() -> None:
    async with client(limits=Limits(max_batch_images=1)) as ai:
        with pytest.raises(openai.APIStatusError, match="more than 1 images"):
            await ai.chat.completions.create(model="fake", messages=message(URI, URI))
    async with client(limits=Limits(max_batch_bytes=len(PNG))) as ai:
        with pytest.raises(openai.APIStatusError, match="together") as caught:
            await ai.chat.completions.create(model="fake", messages=message(URI, URI))
    assert caught.value.status_code == 413
    assert json.loads(caught.value.response.content)["error"]["type"] == "invalid_request_error"


async def ask(content: Any, *before: dict[str, Any]) -> httpx.Response:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    transport = httpx.ASGITransport(create_app(service))
    messages = [*before, {"role": "user", "content": content}]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        return await http.post("/v1/chat/completions", json={"model": "caption-serve", "messages": messages})


IMAGE_PART = {"type": "image_url", "image_url": {"url": URI, "detail": "low"}}


async def test_a_detail_of_null_is_none() -> None:
    """Clients that send every field sent null and got 400."""
    assert (await ask([{"type": "image_url", "image_url": {"url": URI, "detail": None}}])).status_code == 200
    assert (await ask([{"type": "image_url", "image_url": URI}])).status_code == 200


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url", "image_url": {"url": URI, "detail": "medium"}}, "messages.0.content.0.image_url.detail"),
        ({"type": "image_url", "image_url": 3}, "messages.0.content.0.image_url"),
        ({"type": "image_url", "image_url": {"url": None}}, "messages.0.content.0.image_url.url"),
        ({"type": "input_image", "image_url": URI}, "messages.0.content.0"),
        ({"type": "image", "source": {}}, "messages.0.content.0"),
        ({"image_url": {"url": URI}}, "messages.0.content.0"),
        ("text", "messages.0.content"),
    ],
)
async def test_an_error_names_the_field_at_fault(part: Any, field: str) -> None:
    """Four faults had one sentence that was about none of them."""
    answer = await ask([part])
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(f"{field}")
    assert "content.str" not in answer.text


@pytest.mark.parametrize("kind", ["refusal", "thinking", "input_audio", "file"])
async def test_parts_of_other_messages_are_not_looked_at(kind: str) -> None:
    history: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": kind, kind: {}}]},
        {"role": "assistant", "content": [{"type": kind}]},
    ]
    assert (await ask([IMAGE_PART], *history)).status_code == 200
    assert (await ask("and now?", {"role": "user", "content": [IMAGE_PART]}, *history)).status_code == 200


async def test_a_long_instruction_is_cut_to_a_prompt() -> None:
    """Beyond 400 characters it was refused with the name of an option that the client had never sent."""
    long = await ask([{"type": "text", "text": "describe it " * 60}, IMAGE_PART])
    assert long.status_code == 200
    assert (await ask([{"type": "text", "text": "x" * 3000}, IMAGE_PART])).status_code == 200


async def test_answers_are_of_the_schema_that_is_asked_for() -> None:
    async with telling() as (ai, _):

        async def said(form: Any, text: str = "describe it") -> Any:
            answer = await ai.chat.completions.create(
                model="fake", messages=message(URI, text=text), response_format=form
            )
            return json.loads(str(answer.choices[0].message.content))

        whole = " ".join(STATEMENTS)
        assert await said({"type": "json_object"}) == {"caption": whole}
        assert await said(schema_of({"title": {"type": "string"}, "alt_text": {"type": ["string", "null"]}})) == {
            "title": whole, "alt_text": whole,
        }  # fmt: skip
        optional = schema_of({"text": {"type": "string"}, "score": {"type": "number"}})
        optional["json_schema"]["schema"]["required"] = ["text"]
        assert await said(optional) == {"text": whole}


@asynccontextmanager
async def deployed(limits: Limits | None = None) -> AsyncIterator[openai.AsyncOpenAI]:
    """With a model that answers questions."""
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), limits)
    app = create_app(service, TaskService(service, None, RuleAnswerer()))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0) as found:
        yield found
    service.close()


async def test_a_question_is_answered_in_later_turns_too() -> None:
    """The second turn of a chat got the first one's caption again, whatever it asked."""
    async with deployed() as ai:

        async def said(messages: list[Any], **more: Any) -> str:
            answer = await ai.chat.completions.create(model="fake", messages=messages, **more)
            return str(answer.choices[0].message.content)

        assert await said(message(URI, text="How many boats?")) == "boats? yes"
        later = [*message(URI, text="Describe it."), {"role": "assistant", "content": "A boat."}]
        assert await said([*later, {"role": "user", "content": "Is it red?"}]) == "red? yes"
        assert await said(message(URI, URI, text="Is it red?")) == "1. red? yes\n2. red? yes"
        assert "brown dog" in (await said(message(URI, text="What is in this picture?"))).lower()
        answered = await said(message(URI, text="Is it red?"), response_format={"type": "json_object"})
        assert json.loads(answered) == {"answer": "red? yes"}
    async with client() as ai:  # nobody there who answers
        answer = await ai.chat.completions.create(model="fake", messages=message(URI, text="Is it red?"))
        assert "brown dog" in str(answer.choices[0].message.content).lower()


async def test_lengths_that_a_text_names_are_kept() -> None:
    async with telling() as (ai, captioner):
        for text, system in (
            ("Write alt text under 140 characters.", ""),
            ("describe it " * 60 + "in at most 9 words", ""),
            ("go on", "You write alt texts. Use no more than 125 characters."),
        ):
            messages = [*([{"role": "system", "content": system}] if system else []), *message(URI, text=text)]
            await ai.chat.completions.create(model="fake", messages=messages)
    assert [(each.max_characters, each.max_words) for each in captioner.asked] == [(140, None), (None, 9), (125, None)]


async def test_served_names_stand_for_the_model() -> None:
    async with client(limits=Limits(served_names=("captions", "blip"))) as ai:
        assert [model.id async for model in await ai.models.list()] == ["captions", "blip"]
        for asked, answered in (("captions", "captions"), ("blip", "blip"), ("caption-serve", "captions")):
            assert (await ai.chat.completions.create(model=asked, messages=message(URI))).model == answered
        with pytest.raises(openai.NotFoundError):
            await ai.chat.completions.create(model="fake", messages=message(URI))
    async with client(limits=Limits(served_names=("*",))) as ai:
        assert (await ai.chat.completions.create(model="gpt-4o-mini", messages=message(URI))).model == "gpt-4o-mini"
        assert [model.id async for model in await ai.models.list()] == ["fake"]


async def test_an_answer_carries_its_fingerprint() -> None:
    async with telling() as (ai, _):
        answer = await ai.chat.completions.create(model="fake", messages=message(URI))
        stream = await ai.chat.completions.create(model="fake", messages=message(URI), stream=True)
        chunks = [chunk async for chunk in stream]
    assert answer.system_fingerprint == chunks[-1].system_fingerprint == FINGERPRINT


async def test_the_responses_api_gives_the_same_in_its_own_shape() -> None:
    """PhotoPrism, n8n and agents ask `/v1/responses` alone, and got 404."""
    image: Any = {"type": "input_image", "image_url": URI, "detail": "low"}
    async with deployed() as ai:
        asked: dict[str, Any] = {
            "model": "fake",
            "instructions": "You write alt texts.",
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "Describe it."}, image]}],
        }
        answer = await ai.responses.create(**asked)
        assert (answer.status, answer.model, answer.object) == ("completed", "fake", "response")
        assert "brown dog" in answer.output_text.lower()
        assert answer.usage
        assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
        events = [event async for event in await ai.responses.create(**asked, stream=True)]
        assert (
            "".join(event.delta for event in events if event.type == "response.output_text.delta") == answer.output_text
        )
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == answer.output_text
        assert [event.sequence_number for event in events] == list(range(len(events)))
        asked["input"][0]["content"][0]["text"] = "Is it red?"
        assert (await ai.responses.create(**asked)).output_text == "red? yes"
        assert (await ai.responses.create(model="fake", input="Hi")).output_text.startswith("This service describes")
        form: Any = {
            "format": {
                "type": "json_schema",
                "name": "x",
                "schema": schema_of({"alt": {"type": "string"}})["json_schema"]["schema"],
            }
        }
        assert "alt" in json.loads((await ai.responses.create(**asked, text=form)).output_text)
        for broken in (
            {"input": 3},
            {"previous_response_id": "x"},
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await ai.responses.create(**{**asked, **broken})  # type: ignore[call-overload]
            assert caught.value.body["type"] == "invalid_request_error"  # type: ignore[index]


async def test_a_lost_replica_fails_a_response_in_both_forms() -> None:
    async with client(lambda _: GeneratorUnavailable("Nobody is there.")) as ai:
        content: Any = [{"role": "user", "content": [{"type": "input_image", "image_url": URI}]}]
        with pytest.raises(openai.InternalServerError, match="Nobody is there"):
            await ai.responses.create(model="fake", input=content)


async def test_ollama_s_clients_find_the_model_and_get_captions_and_answers() -> None:
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)))
    app = create_app(service, TaskService(service, None, RuleAnswerer()))
    image = base64.b64encode(PNG).decode()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        tags = (await http.get("/api/tags")).json()
        assert [model["name"] for model in tags["models"]] == ["fake"]
        assert "vision" in (await http.post("/api/show", json={"model": "fake"})).json()["capabilities"]
        asked: dict[str, Any] = {"model": "fake:latest", "prompt": "Describe it.", "images": [image]}
        plain = (await http.post("/api/generate", json={**asked, "stream": False})).json()
        assert "brown dog" in plain["response"].lower()
        assert (plain["done"], plain["done_reason"]) == (True, "stop")
        streamed = await http.post("/api/generate", json=asked)
        lines = [json.loads(line) for line in streamed.text.splitlines()]
        assert "".join(line["response"] for line in lines) == plain["response"]
        assert [line["done"] for line in lines] == [False, True]
        chat = {
            "model": "fake",
            "messages": [{"role": "user", "content": "Is it red?", "images": [image]}],
            "stream": False,
        }
        assert (await http.post("/api/chat", json=chat)).json()["message"]["content"] == "red? yes"
        formed = (await http.post("/api/generate", json={**asked, "stream": False, "format": "json"})).json()
        assert "caption" in json.loads(formed["response"])
        for path, body in (
            ("generate", {**asked, "model": "llava"}),
            ("chat", {**asked, "images": ["%%"], "messages": None}),
            ("show", {"model": "llava"}),
            ("generate", {"images": 3}),
            ("show", [1]),
        ):
            refused = await http.post(f"/api/{path}", json=body)
            assert refused.status_code in (400, 404)
            assert refused.json()["error"]
    service.close()
