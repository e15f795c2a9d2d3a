"""The tasks beside captions, each declared once: its options, its answer, and the model that it needs.

Routes, the gate, `describe`, the handle's methods, MCP's tools and the client's paths follow from `TASKS`.
`TaskService` and the clients have a method for each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from serve_app.contract import AnswerBody, EmbeddingsBody, FilterBody, MatchBody
from serve_app.options import MAX_SEED
from serve_app.types import Detail

DEFAULT_FLOOR = 0.5
"""Match score at which a text describes an image more likely than not."""

ModelRole = Literal["matcher", "answerer"]
"""A model beside the captioner; the setting of that name says which one."""

NonEmpty = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Timed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timeout_s: float | None = Field(None, gt=0, allow_inf_nan=False, description="seconds")


class AnswerOptions(Timed):
    question: NonEmpty | None = Field(None, description='for example "how many dogs are there?"')
    questions: list[NonEmpty] | None = Field(None, min_length=1, description="several, instead of `question`")

    @property
    def all(self) -> list[str]:
        return [self.question] if self.question is not None else list(self.questions or ())

    @model_validator(mode="after")
    def _ask_something(self) -> Self:
        if (self.question is None) == (self.questions is None):
            raise PydanticCustomError("question", "give `question` or `questions`")
        return self


class MatchOptions(Timed):
    texts: list[NonEmpty] = Field(min_length=1, description="texts to compare with the image")


class FilterOptions(MatchOptions):
    floor: float = Field(DEFAULT_FLOOR, ge=0, le=1, description="match score that a text needs to be kept")
    improve: bool = Field(True, description="make a new caption if no text passes")
    detail: Detail | None = Field(None, description="of the new caption")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="of the new caption")


def _no_token_ids(value: Any) -> Any:
    """What packages for OpenAI's models send unless they are told to send texts."""
    if isinstance(value, list) and any(isinstance(each, int | list) for each in value):
        hint = "Token ids are of another model; send texts (LangChain: check_embedding_ctx_length=False)"
        raise PydanticCustomError("token_ids", hint)
    return value


class EmbeddingOptions(Timed):
    input: Annotated[str | list[str], BeforeValidator(_no_token_ids)] = Field(
        default_factory=list, description="a text or several; of one beyond the model's length the beginning counts"
    )
    dimensions: int | None = Field(None, description="numbers of a vector; those of the model alone are accepted")
    model: str | None = Field(None, description="taken and ignored; there is one model")
    user: str | None = Field(None, description="taken and ignored")
    encoding_format: Literal["float", "base64"] | None = "float"


@dataclass(frozen=True, slots=True)
class Tool:
    """How agents are offered a task, over MCP."""

    name: str
    title: str
    description: str
    text: Callable[[Any], str]
    """The answer's body in words."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of one image, except embeddings, which take several."""

    name: str
    method: str
    """Of `TaskService`, of a handle and of the clients."""
    needs: ModelRole
    options: type[BaseModel]
    subject: str
    """The option that a call in Python takes beside the image."""
    body: type[BaseModel]
    summary: str
    description: str
    example: Mapping[str, Any] = field(default_factory=dict)
    by_captioner: bool = False
    """Whether the captioner's replicas do its work, which admission then counts."""
    tool: Tool | None = None

    @property
    def path(self) -> str:
        return f"/v1/{self.name}"


def _matches(body: MatchBody) -> str:
    return "\n".join(f"{match.probability:.3f} {match.text}" for match in body.matches)


ANSWERS = Task(
    name="answers",
    method="answer",
    needs="answerer",
    options=AnswerOptions,
    subject="question",
    body=AnswerBody,
    summary="Answer a question about an image",
    description="The image comes as a form file, as the raw body, or inside JSON, as for captions.",
    example={"question": "what is in the picture?"},
    tool=Tool(
        "answer_question",
        "Ask about an image",
        "Get a short answer to a question about an image: what, how many, where, is there.",
        lambda body: str(body.answer),
    ),
)
MATCHES = Task(
    name="matches",
    method="match",
    needs="matcher",
    options=MatchOptions,
    subject="texts",
    body=MatchBody,
    summary="Say how well texts describe an image",
    description="`probability` judges each text with the image before it; `similarity` is fit for search over many "
    "images.",
    example={"texts": ["a dog", "a red square"]},
    tool=Tool(
        "match_texts",
        "Compare texts with an image",
        "Get for each text the probability that it describes the image, to check what is claimed of it.",
        _matches,
    ),
)
FILTERS = Task(
    name="filters",
    method="filter",
    needs="matcher",
    options=FilterOptions,
    subject="texts",
    body=FilterBody,
    summary="Say which of an image's texts to keep, and write a better one if none is good",
    description="For alt texts and captions that are there already.",
    example={"texts": ["a dog", "IMG_2041.JPG"], "improve": False},
)
EMBEDDINGS = Task(
    name="embeddings",
    method="embed",
    needs="matcher",
    options=EmbeddingOptions,
    subject="input",
    body=EmbeddingsBody,
    summary="Vectors of images and texts for search",
    description="OpenAI's shape, with `images` besides `input`. Vectors have length 1; `dimension` says how many "
    "numbers.",
    example={"input": ["a dog on the grass"]},
)
TASKS = (ANSWERS, MATCHES, FILTERS, EMBEDDINGS)
