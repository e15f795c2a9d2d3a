"""The engine `openai`: a model behind an OpenAI-compatible chat endpoint captions; none is held here."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, BadRequestError, OpenAIError
from PIL import Image

from serve_app.deadline import Deadline
from serve_app.errors import CaptionServeError, DeadlineExceeded, GenerationFailed
from serve_app.types import (
    CHAT_PROMPTS,
    Generated,
    GenerateJob,
    GenerationParameters,
    ModelInfo,
    OnOutcome,
    Outcome,
    Pixels,
)

logger = logging.getLogger(__name__)

KEY_VARIABLE = "CAPTION_SERVE_CAPTIONER_API_KEY"
LONGEST = 1024
"""Longest side in pixels of the pictures that are sent."""
JPEG_QUALITY = 90
NEW_TOKENS = 300
POSITIONS = 4096
RETRIES = 2
"""Times that a request is sent again; the client waits as long as `Retry-After` says."""
MOST_FAILURES = 5
"""Failures one after the other, behind which the server is left alone for a while."""
PAUSE_S = 15.0
PATIENCE_S = 10.0
"""Time limit from which on no answer in time is a failure of the server."""
LATE = "The captioner's server did not answer in time."


def key_of(captioner: str, environ: Mapping[str, str]) -> str | None:
    """The API key of a captioner: that of its name if there is one, as in …_API_KEY_MY_VLM."""
    own = f"{KEY_VARIABLE}_{captioner.upper().replace('-', '_')}"
    return environ.get(own, environ.get(KEY_VARIABLE))


class ServerFailed(GenerationFailed):
    """The server has a fault that other requests meet, too."""


def info_of(url: str, model: str) -> ModelInfo:
    """What callers must know of the model behind an endpoint."""
    return ModelInfo(model, LONGEST, LONGEST, POSITIONS, "", url, fit="longest", prompts=CHAT_PROMPTS, chats=True)


@dataclass(slots=True)
class RemoteCounters:
    """Numbers since the start; tokens as the server counts them."""

    requests: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class RemoteGenerator:
    """A Generator over a chat endpoint. Its jobs run at once, as many as `concurrency` of all callers."""

    def __init__(self, url: str, model: str, api_key: str | None = None, concurrency: int = 16) -> None:
        """`url` is the API's root, such as `http://llm:8000/v1`."""
        self._info = info_of(url, model)
        # Servers without keys want one all the same to be syntactically there.
        self._client = AsyncOpenAI(base_url=url, api_key=api_key or "none", max_retries=RETRIES)
        self._room = asyncio.Semaphore(concurrency)
        self._failures = 0
        self._closed_until = 0.0
        self._tells_probabilities = True
        self.counters = RemoteCounters()

    async def info(self) -> ModelInfo:
        return self._info

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Runs the jobs at once. Cancelling the call ends their requests."""
        deadline = Deadline.after(timeout_s)
        url = await asyncio.to_thread(_data_url, pixels)

        async def one(index: int, job: GenerateJob) -> Outcome:
            patient = deadline.left_s >= PATIENCE_S
            try:
                async with deadline.enforced(LATE):
                    outcome: Outcome = await self._generated(url, job, deadline)
                self._failures = 0
            except CaptionServeError as error:
                outcome = error
                if isinstance(error, ServerFailed) or (patient and isinstance(error, DeadlineExceeded)):
                    self._count_failure()
            if on_outcome is not None:
                on_outcome(index, outcome)
            return outcome

        return list(await asyncio.gather(*(one(index, job) for index, job in enumerate(jobs))))

    def check_health(self) -> None:
        """The server's health is no replica's: what it fails at is told in the answers."""

    def close(self) -> None:
        """There is nothing to end: requests end with their callers."""

    async def _generated(self, url: str, job: GenerateJob, deadline: Deadline) -> Generated:
        async with self._room:
            if time.monotonic() < self._closed_until:
                raise GenerationFailed(
                    f"The captioner's server failed {MOST_FAILURES} times; it is left alone for a while."
                )
            self.counters.requests += 1
            return _read(await self._ask(url, job, deadline), job.parameters)

    def _count_failure(self) -> None:
        self.counters.failures += 1
        self._failures += 1
        if self._failures >= MOST_FAILURES:
            self._failures, self._closed_until = 0, time.monotonic() + PAUSE_S
            logger.warning("The captioner's server failed %d times; no request for %.1f s.", MOST_FAILURES, PAUSE_S)

    async def _ask(self, url: str, job: GenerateJob, deadline: Deadline) -> Any:
        """The server's completion. Raises `DeadlineExceeded` and `GenerationFailed`."""
        picture = {"type": "image_url", "image_url": {"url": url}}
        text = {"type": "text", "text": job.prompt or CHAT_PROMPTS[0]}
        message: Any = {"role": "user", "content": [picture, text]}
        given = _parameters(job)
        if not self._tells_probabilities:
            del given["logprobs"]
        try:
            answer: Any = await self._client.chat.completions.create(
                model=self._info.name,
                messages=[message],
                timeout=None if math.isinf(deadline.left_s) else deadline.left_s,
                **given,
            )
        except (APITimeoutError, TimeoutError):
            raise DeadlineExceeded(LATE) from None
        except APIConnectionError:
            raise ServerFailed("The captioner's server cannot be reached.") from None
        except BadRequestError as error:
            if self._tells_probabilities and "logprob" in str(error).lower():
                self._tells_probabilities = False
                return await self._ask(url, job, deadline)
            raise GenerationFailed("The captioner's server refused the request (400).") from error
        except APIStatusError as error:
            raise ServerFailed(f"The captioner's server answered with status {error.status_code}.") from None
        except (OpenAIError, ValueError) as error:
            raise ServerFailed("The captioner's server answered with something that cannot be read.") from error
        usage = getattr(answer, "usage", None)
        for name in ("prompt_tokens", "completion_tokens"):
            told = getattr(usage, name, None)
            setattr(self.counters, name, getattr(self.counters, name) + (told if isinstance(told, int) else 0))
        return answer


def _data_url(pixels: Pixels) -> str:
    buffer = io.BytesIO()
    Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _parameters(job: GenerateJob) -> dict[str, Any]:
    """What a chat endpoint takes of the parameters of transformers."""
    p = job.parameters
    given: dict[str, Any] = {
        "max_tokens": p.max_new_tokens or p.max_length or NEW_TOKENS,
        "temperature": (1.0 if p.temperature is None else p.temperature) if p.do_sample else 0.0,
        "seed": job.seed % 2**31,
        "logprobs": True,
    }
    if p.do_sample and p.top_p is not None:
        given["top_p"] = p.top_p
    return given


def _read(answer: Any, parameters: GenerationParameters) -> Generated:
    """Raises `GenerationFailed` for an answer without a text."""
    choices = answer.choices if isinstance(getattr(answer, "choices", None), list) else []
    text = choices[0].message.content if choices and choices[0].message else None
    if not isinstance(text, str) or not text.strip():
        raise ServerFailed("The captioner's server answered with no text.")
    told = getattr(choices[0].logprobs, "content", None) or []
    tokens, score = len(told), None
    if told:
        penalty = 1.0 if parameters.length_penalty is None else parameters.length_penalty
        score = sum(token.logprob for token in told) / tokens**penalty
    return Generated(text.strip(), "", score, tokens)
