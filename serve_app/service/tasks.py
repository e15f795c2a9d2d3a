"""Questions, matching, filtering and embeddings: from raw images and options to the answers' bodies."""

from __future__ import annotations

import asyncio
import base64
import struct
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, TypeVar

from serve_app.contract import (
    AnswerBody,
    AnsweredQuestion,
    Embedding,
    EmbeddingsBody,
    EmbeddingUsage,
    FilterBody,
    FilteredText,
    MatchBody,
    MatchedText,
)
from serve_app.deadline import Deadline
from serve_app.errors import InvalidOption, NotDeployed, PromptTooLong, ServiceError
from serve_app.limits import Limits
from serve_app.options import validated
from serve_app.service.captions import CaptionService
from serve_app.task_types import Answerer, MatchModel
from serve_app.tasks import TASKS, AnswerOptions, EmbeddingOptions, FilterOptions, MatchOptions, Task
from serve_app.types import HasInfo, ModelInfo

TEXTS_AT_ONCE = 64
"""Texts of one request that the model gets in one call."""
LONGEST_CHARACTERS = 10_000
"""Of a text for a vector, far beyond the model's tokens."""

Model = TypeVar("Model", bound=HasInfo)
Result = TypeVar("Result")


class TaskService:
    """BLIP's other tasks beside a caption service, each if its model is deployed.

    Methods raise `NotDeployed`, other `RequestError`s and `ServiceError`s.
    """

    def __init__(
        self, captions: CaptionService, matcher: MatchModel | None = None, answerer: Answerer | None = None
    ) -> None:
        self._captions = captions
        self._matcher = matcher
        self._answerer = answerer
        captions.tasks = self.names

    @property
    def names(self) -> tuple[str, ...]:
        """What is deployed."""
        deployed = {"answerer": self._answerer, "matcher": self._matcher}
        return tuple(task.name for task in TASKS if deployed[task.needs] is not None)

    def need(self, task: Task) -> None:
        """Raises `NotDeployed` if the task's model is not there."""
        if task.needs == "answerer":
            self.need_answerer()
        else:
            self.need_matcher()

    def need_answerer(self) -> Answerer:
        return _deployed(self._answerer, "Question answering", "answerer")

    def need_matcher(self) -> MatchModel:
        return _deployed(self._matcher, "Image–text matching", "matcher")

    async def answer(self, image: Any, values: Mapping[str, Any], request_id: str | None = None) -> AnswerBody:
        answerer = self.need_answerer()
        options = validated(AnswerOptions, values)
        _check_texts(options.all, self._limits, "question" if options.question else "questions")
        deadline = _deadline(options.timeout_s, self._limits)
        info = await _info(answerer, deadline)
        image = await self._captions.fetched(image, deadline)
        async with self._captions.charged(len(options.all)):
            pixels = await self._captions.read(image, info, deadline)
            found = await answerer.answers(pixels, options.all, deadline.left_s)
        answers = [
            AnsweredQuestion(question=question, answer=answer.text, probability=round(answer.probability, 6))
            for question, answer in zip(options.all, found, strict=True)
        ]
        return AnswerBody(
            **answers[0].model_dump(), id=request_id or uuid.uuid4().hex, model=info.name, answers=answers
        )

    async def match(self, image: Any, values: Mapping[str, Any], request_id: str | None = None) -> MatchBody:
        matcher = self.need_matcher()
        options = validated(MatchOptions, values)
        _check_texts(options.texts, self._limits, "texts")
        deadline = _deadline(options.timeout_s, self._limits)
        info = await _info(matcher, deadline)
        image = await self._captions.fetched(image, deadline)
        async with self._captions.charged(1):
            pixels = await self._captions.read(image, info, deadline)
            found = await matcher.match(pixels, options.texts, deadline.left_s, similarity=True)
        return MatchBody(
            id=request_id or uuid.uuid4().hex,
            model=info.name,
            matches=[
                MatchedText(
                    text=text, probability=round(match.probability, 6), similarity=round(match.similarity or 0.0, 6)
                )
                for text, match in zip(options.texts, found, strict=True)
            ],
        )

    async def filter(self, image: Any, values: Mapping[str, Any], request_id: str | None = None) -> FilterBody:
        """CapFilt's filter (Li et al. 2022, https://arxiv.org/abs/2201.12086) for one image, and its captioner."""
        matcher = self.need_matcher()
        options = validated(FilterOptions, values)
        _check_texts(options.texts, self._limits, "texts")
        deadline = _deadline(options.timeout_s, self._limits)
        info = await _info(matcher, deadline)
        image = await self._captions.fetched(image, deadline)
        async with self._captions.charged(1):
            pixels = await self._captions.read(image, info, deadline)
            found = await matcher.match(pixels, options.texts, deadline.left_s)
        texts = [
            FilteredText(text=text, score=round(match.probability, 6), keep=match.probability >= options.floor)
            for text, match in zip(options.texts, found, strict=True)
        ]
        body = FilterBody(
            id=request_id or uuid.uuid4().hex,
            model=info.name,
            floor=options.floor,
            texts=texts,
            caption=None,
            degraded=[],
        )
        if options.improve and not any(text.keep for text in texts):
            asked = {"detail": options.detail, "seed": options.seed, "timeout_s": max(0.001, deadline.left_s)}
            try:
                made = await self._captions.caption(
                    image, {name: value for name, value in asked.items() if value is not None}, body.id
                )
            except ServiceError as error:  # the verdicts stand
                body.degraded.append(f"caption: {error.message}")
                return body
            body.caption, body.degraded = made.caption, made.degraded
            try:
                (score,) = await matcher.match(pixels, [made.caption or " "], deadline.left_s)
                body.caption_score = round(score.probability, 6)
            except (ServiceError, PromptTooLong) as error:
                body.degraded.append(f"score: {error.message}")
        return body

    async def embed(
        self, images: Sequence[Any], values: Mapping[str, Any], fetch: Callable[[Any], Awaitable[Any]] | None = None
    ) -> EmbeddingsBody:
        """`fetch` makes an image of what stands for one in `images`, within the request's time."""
        matcher = self.need_matcher()
        options = validated(EmbeddingOptions, values)
        texts = [options.input] if isinstance(options.input, str) else options.input
        if not texts and not images:
            raise InvalidOption("input: give texts in `input`, images in `images`, or both.")
        if len(texts) > (most := self._limits.max_embedding_texts):
            raise InvalidOption(f"input: {len(texts)} texts were given; at most {most} are accepted.")
        if len(images) > self._limits.max_batch_images:
            raise InvalidOption(
                f"images: {len(images)} were given; at most {self._limits.max_batch_images} are accepted."
            )
        deadline = _deadline(options.timeout_s, self._limits)
        info = await _info(matcher, deadline)

        async def of_image(image: Any) -> list[float]:
            if fetch is not None:
                async with deadline.enforced("The images could not be fetched in time."):
                    image = await fetch(image)
            return await matcher.embed_image(await self._captions.read(image, info, deadline), deadline.left_s)

        vectors: list[list[float]] = []
        async with self._captions.charged(len(texts) + len(images)):
            for start in range(0, len(texts), TEXTS_AT_ONCE):  # others come in between
                some = [text[:LONGEST_CHARACTERS] for text in texts[start : start + TEXTS_AT_ONCE]]
                vectors += await matcher.embed_texts(some, deadline.left_s)
            async with _Together() as together:
                vectors += await together.results(map(of_image, images))
        if options.dimensions not in (None, len(vectors[0])):
            raise InvalidOption(f"dimensions: this model's vectors have {len(vectors[0])} numbers.")
        words = sum(len(text.split()) for text in texts)
        return EmbeddingsBody(
            model=info.name,
            dimension=len(vectors[0]),
            data=[
                Embedding(index=index, embedding=_as(options.encoding_format, vector))
                for index, vector in enumerate(vectors)
            ],
            usage=EmbeddingUsage(prompt_tokens=words, total_tokens=words),
        )

    @property
    def _limits(self) -> Limits:
        return self._captions.limits


def _deadline(timeout_s: float | None, limits: Limits) -> Deadline:
    """Raises `InvalidOption`."""
    timeout_s = timeout_s or limits.default_timeout_s
    if timeout_s > limits.max_timeout_s:
        raise InvalidOption(f"timeout_s: at most {limits.max_timeout_s:g} seconds are accepted.")
    return Deadline.after(timeout_s)


async def _info(model: HasInfo, deadline: Deadline) -> ModelInfo:
    async with deadline.enforced("No replica of the model answered in time."):
        return await model.info()


class _Together:
    """Work of several tasks, of which none outlives the block."""

    async def __aenter__(self) -> Self:
        self._tasks: list[asyncio.Task[list[float]]] = []
        return self

    async def results(self, work: Iterable[Coroutine[Any, Any, list[float]]]) -> list[list[float]]:
        self._tasks = [asyncio.create_task(one) for one in work]
        return list(await asyncio.gather(*self._tasks))

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _deployed(model: Model | None, task: str, setting: str) -> Model:
    if model is None:
        raise NotDeployed(f"{task} is not deployed here; the setting `{setting}` turns it on.")
    return model


def _check_texts(texts: Sequence[str], limits: Limits, name: str) -> None:
    if len(texts) > limits.max_texts:
        raise InvalidOption(f"{name}: {len(texts)} were given; at most {limits.max_texts} are accepted.")
    if any(len(text) > limits.max_text_characters for text in texts):
        raise InvalidOption(f"{name}: at most {limits.max_text_characters} characters each are accepted.")


def _as(encoding: Literal["float", "base64"] | None, vector: list[float]) -> list[float] | str:
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector
