"""The tasks beside captions, each declared once: its options, its answer, and the model that it needs.

Routes, the gate, `describe` and the client's paths follow from `TASKS`. `TaskService`, handles and clients have a
method for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

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
    question: NonEmpty = Field(description='for example "how many dogs are there?"')


class MatchOptions(Timed):
    texts: list[NonEmpty] = Field(min_length=1, description="texts to compare with the image")


class FilterOptions(MatchOptions):
    floor: float = Field(DEFAULT_FLOOR, ge=0, le=1, description="match score that a text needs to be kept")
    improve: bool = Field(True, description="make a new caption where no text passes")
    detail: Detail | None = Field(None, description="of the new caption")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="of the new caption")


class EmbeddingOptions(Timed):
    input: NonEmpty | list[NonEmpty] = Field(default_factory=list, description="a text or several")
    model: str | None = Field(None, description="taken and ignored; there is one model")
    user: str | None = Field(None, description="taken and ignored")
    encoding_format: Literal["float", "base64"] = "float"


@dataclass(frozen=True, slots=True)
class Task:
    """A task of one image, but for embeddings, which take several."""

    name: str
    method: str
    """Of `TaskService`, of a handle and of the clients."""
    needs: ModelRole
    """The setting that names its model."""
    options: type[BaseModel]
    body: type[BaseModel]
    summary: str
    description: str
    example: Mapping[str, Any] = field(default_factory=dict)
    by_captioner: bool = False
    """Whether the captioner's replicas do its work, which admission then counts."""

    @property
    def path(self) -> str:
        return f"/v1/{self.name}"


ANSWERS = Task(
    "answers",
    "answer",
    "answerer",
    AnswerOptions,
    AnswerBody,
    "Answer a question about an image",
    "The image comes as a form file, as the raw body, or inside JSON, as for captions.",
    {"question": "what is in the picture?"},
)
MATCHES = Task(
    "matches",
    "match",
    "matcher",
    MatchOptions,
    MatchBody,
    "Say how well texts describe an image",
    "`probability` judges each text with the image before it; `similarity` is fit for search over many images.",
    {"texts": ["a dog", "a red square"]},
)
FILTERS = Task(
    "filters",
    "filter",
    "matcher",
    FilterOptions,
    FilterBody,
    "Say which of an image's texts to keep, and write a better one if none is good",
    "For alt texts and captions that are there already.",
    {"texts": ["a dog", "IMG_2041.JPG"], "improve": False},
)
EMBEDDINGS = Task(
    "embeddings",
    "embed",
    "matcher",
    EmbeddingOptions,
    EmbeddingsBody,
    "Vectors of images and texts for search",
    "OpenAI's shape, with `images` besides `input`. Vectors have length 1; `dimension` says how many numbers.",
    {"input": ["a dog on the grass"]},
)
TASKS = (ANSWERS, MATCHES, FILTERS, EMBEDDINGS)
