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
from serve_app.service import CaptionService
from tests.unit.captioners import LENGTH, STATEMENTS, TellingCaptioner, length_of
from tests.unit.fakes import RuleGenerator
from tests.unit.test_api import PNG, echo

URI = "data:image/png;base64," + base64.b64encode(PNG).decode()


def message(*urls: str, text: str | None = "look") -> list[Any]:
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*([{"type": "text", "text": text}] if text else []), *parts]}]


@asynccontextmanager
async def client(
    rule: Callable[[str], str | Exception] = echo, limits: Limits | None = None, rows: float = 1e9
) -> AsyncIterator[openai.AsyncOpenAI]:
    service = CaptionService(CaptionPipeline(RuleGenerator(rule)), limits, lambda: rows)
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


async def test_text_is_a_further_prompt() -> None:
    generator = RuleGenerator(echo)
    service = CaptionService(CaptionPipeline(generator))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http) as ai:
        await ai.chat.completions.create(model="caption-serve", messages=message(URI, text="  the weather\n is "))
    assert [job.prompt for job in generator.calls[0]][-1] == "the weather is"
    assert len(generator.calls[0]) == 5
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
        ([{"role": "user", "content": "hello"}], {}),
        ([{"role": "assistant", "content": message(URI)[0]["content"]}], {}),
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
        (message(URI), {"response_format": {"type": "json_object"}}),
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


async def test_ordinary_chat_is_told_what_is_missing() -> None:
    async with client() as ai:
        with pytest.raises(openai.BadRequestError, match="add an image_url part"):
            await ai.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hello"}])


async def test_harmless_parameters_are_ignored() -> None:
    async with client() as ai:
        answer = await ai.chat.completions.create(
            model="fake", messages=message(URI), temperature=0.5, top_p=0.9, stop=["x"], user="me", tools=[]
        )
    assert answer.choices


@pytest.mark.parametrize("stream", [False, True])
async def test_full_service_says_so_before_it_streams(stream: bool) -> None:
    limits = Limits(overload_status=429)
    service = CaptionService(CaptionPipeline(RuleGenerator(echo)), limits, lambda: 1)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(service)), base_url="http://test")
    async with openai.AsyncOpenAI(api_key="x", base_url="http://test/v1", http_client=http, max_retries=0) as ai:
        with service.admission.admit(1), pytest.raises(openai.RateLimitError) as caught:
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


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "image_url", "image_url": {"url": URI, "detail": "medium"}}, "messages.0.content.0.image_url.detail"),
        ({"type": "image_url", "image_url": URI}, "messages.0.content.0.image_url"),
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
