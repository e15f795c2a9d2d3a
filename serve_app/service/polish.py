"""The optional last step: a chat model rewrites the caption fluently, over any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, OpenAIError

from serve_app.errors import PolishFailed
from serve_app.types import Clause

KEY_VARIABLE = "CAPTION_SERVE_POLISH_API_KEY"
MAX_TOKENS = 400

INSTRUCTIONS = """You rewrite descriptions of images so that they read fluently. You get a caption and its clauses, each
with the probability that the image supports it. Say what the caption says in one paragraph of plain sentences. Add
nothing: no object, number, colour, place, mood or guess that is not in it. Leave nothing out. Answer with the text
alone."""


class ChatPolisher:
    """Asks a chat model to rewrite captions; see `serve_app.types.Polisher`."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_s: float) -> None:
        """`url` is the API's root, such as `http://llm:8000/v1`."""
        self.model = model
        self._timeout_s = timeout_s
        # Endpoints without keys want one all the same to be syntactically there.
        self._client = AsyncOpenAI(base_url=url, api_key=api_key or "none", max_retries=0, timeout=timeout_s)

    async def polish(self, caption: str, clauses: Sequence[Clause], timeout_s: float) -> str:
        given = {"caption": caption, "clauses": [{"text": clause.text, "score": clause.score} for clause in clauses]}
        try:
            async with asyncio.timeout(min(self._timeout_s, timeout_s)):
                answer = await self._client.chat.completions.create(
                    model=self.model,
                    messages=[
                        {"role": "system", "content": INSTRUCTIONS},
                        {"role": "user", "content": json.dumps(given, ensure_ascii=False)},
                    ],
                    temperature=0,
                    max_tokens=MAX_TOKENS,
                )
        except (APITimeoutError, TimeoutError):
            raise PolishFailed("the chat model did not answer in time") from None
        except APIConnectionError:
            raise PolishFailed("the chat model cannot be reached") from None
        except APIStatusError as error:
            raise PolishFailed(f"the chat model answered with status {error.status_code}") from None
        except (OpenAIError, ValueError) as error:
            raise PolishFailed("the chat model's answer cannot be read") from error
        choices = answer.choices if isinstance(getattr(answer, "choices", None), list) else []
        text = choices[0].message.content if choices and choices[0].message else None
        if not isinstance(text, str) or not text.strip():
            raise PolishFailed("the chat model answered with no text")
        if choices[0].finish_reason == "length":
            raise PolishFailed("the chat model's answer was cut off")
        return " ".join(text.split())
