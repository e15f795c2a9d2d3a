"""The HTTP contract's bodies and events, as services send and clients read them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter


class Stats(BaseModel):
    characters: int
    words: int


class VariantBody(BaseModel):
    prompt: str
    text: str = Field(description="empty when the variant failed; then `degraded` says why")
    captioner: str = Field("", description="name of the captioner that wrote it")
    score: float | None = Field(description="match score, or of agreement without a matcher; null unless grounded")


class RoundBody(BaseModel):
    round: int
    text: str = Field(description="the caption after the round; with classic, the one that it proposed")
    accepted: bool


class SourceBody(BaseModel):
    """Where a piece of the caption came from; what does not apply is null."""

    kind: Literal["variant", "extension", "round", "answer"]
    index: int | None = Field(
        description="place among the variants, extensions or questions from 1, or number of the round; null for words "
        "of all"
    )
    captioner: str = Field(description="name of the captioner that wrote it: the model's, unless there are several")
    prompt: str | None = Field(description="what that model was asked; empty for the unconditional caption")


class ClauseBody(BaseModel):
    """A piece of the caption; pieces stand in its order and don't overlap."""

    text: str
    start: int = Field(description="place of its first character in the caption, from 0")
    end: int = Field(description="place behind its last character")
    statement: str | None = Field(description="the short sentence that was weighed; null if nothing was")
    score: float | None = Field(description="support: the probability that the statement is true; null unless grounded")
    source: SourceBody
    whole: bool = Field(description="whether it could not be taken apart into statements and was weighed as it stands")


class ContestedBody(BaseModel):
    """A statement that was left out because it contradicts another one; if both are about equal, both are."""

    text: str
    score: float = Field(description="its support, 0 to 1")
    against: str = Field(description="the statement that it contradicts")
    against_score: float = Field(description="the support of that one, 0 to 1")


class AnsweredQuestion(BaseModel):
    question: str
    answer: str
    probability: float = Field(description="the model's own, 0 to 1: the product over the answer's tokens")


class AskedBody(AnsweredQuestion):
    """A question that was asked for the caption, and what came of it."""

    statement: str | None = Field(description="the sentence that the answer made; null if it says nothing new")
    accepted: bool = Field(description="whether the caption says it because of the answer")


class CaptionBody(BaseModel):
    """A caption, its parts and how long they took (milliseconds)."""

    id: str
    model: str = Field(description="name of the model, or of several captioners, joined by +")
    caption: str
    stats: Stats
    variants: list[VariantBody]
    rounds: list[RoundBody]
    clauses: list[ClauseBody]
    contested: list[ContestedBody] = Field(description="statements that were left out for a contradiction")
    answers: list[AskedBody] = Field(default_factory=list, description="questions that were asked, and their answers")
    degraded: list[str] = Field(description="what is missing from this answer and why; empty when nothing is")
    notices: list[str] = Field(description="what a reader should know although nothing is missing")
    seed: int
    fingerprint: str = Field(
        description="what made it: pipeline version, captioner, matcher (none if none weighed) and settings; captions "
        "with equal ones were made alike"
    )
    timings_ms: dict[str, float]


class Problem(BaseModel):
    """RFC 9457 problem details."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    request_id: str


class StartEvent(BaseModel):
    """The request was let in and its image read; this is what will run."""

    event: Literal["start"] = "start"
    id: str
    model: str
    strategy: str
    prompts: list[str]
    captioners: list[str] = Field(default_factory=list, description="who is asked each of the prompts")
    rounds: int
    seed: int


class VariantEvent(BaseModel):
    """A variant ended; they come in the order in which they finish."""

    event: Literal["variant"] = "variant"
    index: int = Field(description="place among the prompts, from 1")
    prompt: str
    captioner: str = ""
    text: str = Field(description="empty when the variant failed")
    score: float | None = None


class MergeEvent(BaseModel):
    """The variants were merged."""

    event: Literal["merge"] = "merge"
    text: str


class ExtensionEvent(BaseModel):
    """A short merge was extended, or could not be."""

    event: Literal["extension"] = "extension"
    text: str
    accepted: bool


class AnswerEvent(BaseModel):
    """A question was answered; whether the caption says it is known at the end."""

    event: Literal["answer"] = "answer"
    index: int = Field(description="place among the questions, from 1")
    question: str
    answer: str
    probability: float
    statement: str | None = Field(description="the sentence that the answer made; null if it says nothing new")


class RoundEvent(BaseModel):
    """A round ended; the caption stays what it was unless it is accepted."""

    event: Literal["round"] = "round"
    round: int
    text: str
    accepted: bool


class ResultEvent(CaptionBody):
    """The last event of a request that was answered."""

    event: Literal["result"] = "result"


class ErrorEvent(Problem):
    """The last event of a request that failed after it had started."""

    event: Literal["error"] = "error"


StepEvent = StartEvent | VariantEvent | MergeEvent | ExtensionEvent | AnswerEvent | RoundEvent
Event = Annotated[StepEvent | ResultEvent | ErrorEvent, Field(discriminator="event")]
EVENT: TypeAdapter[StepEvent | ResultEvent | ErrorEvent] = TypeAdapter(Event)


class BatchLine(BaseModel):
    """One image of a batch: its place in the request, and the answer or what was wrong with it."""

    index: int = Field(description="place among the request's images, from 0")
    name: str | None = Field(description="file name of the part, if it has one")
    result: CaptionBody | None = None
    error: Problem | None = None


class JobError(BaseModel):
    """Why a caption could not be made."""

    type: str = Field(description="kind of error, as at the end of a problem's `type`")
    status: int
    detail: str


class JobBody(BaseModel):
    """A caption that outlives the request that asked for it."""

    id: str
    status: Literal["queued", "running", "done", "failed", "cancelled"]
    result: CaptionBody | None = None
    error: JobError | None = None
    webhook: Literal["waiting", "called", "failed"] | None = Field(
        None, description="what became of the webhook that was asked for"
    )


class AnswerBody(AnsweredQuestion):
    """The answer to a question about an image; of several `answers` has all, and the first stands alone too."""

    id: str
    model: str
    answers: list[AnsweredQuestion]


class MatchedText(BaseModel):
    text: str
    probability: float = Field(description="that the text describes the image (ITM), 0 to 1")
    similarity: float = Field(description="cosine of the image's and the text's vectors (ITC), -1 to 1")


class MatchBody(BaseModel):
    """How well each text describes an image, in the order in which they came."""

    id: str
    model: str
    matches: list[MatchedText]


class FilteredText(BaseModel):
    text: str
    score: float = Field(description="match score (ITM probability), 0 to 1")
    keep: bool


class FilterBody(BaseModel):
    """Which of an image's texts to keep, and a better one if none passes."""

    id: str
    model: str
    floor: float = Field(description="the score that a text needs")
    texts: list[FilteredText]
    caption: str | None = Field(description="a new caption, if no text passes and `improve` was not false")
    caption_score: float | None = None
    degraded: list[str] = Field(description="what the new caption lacks and why")


class Embedding(BaseModel):
    object: Literal["embedding"] = "embedding"
    index: int = Field(description="place in the request: the texts of `input`, then `images`")
    embedding: list[float] | str = Field(description="of length 1; base64 of little-endian float32 if asked for")


class EmbeddingUsage(BaseModel):
    prompt_tokens: int = Field(description="words of the texts")
    total_tokens: int


class EmbeddingsBody(BaseModel):
    """Vectors in OpenAI's shape; the cosine of two is their dot product."""

    object: Literal["list"] = "list"
    model: str
    dimension: int
    data: list[Embedding]
    usage: EmbeddingUsage


class Description(BaseModel):
    """What a running service offers; asked for by the page before it draws itself."""

    model: str
    captioners: list[str] = Field(default_factory=list, description="names for `use`, if there are several")
    strategies: list[str]
    tasks: list[str] = Field(
        default_factory=list, description="deployed besides captions: answers, matches, filters, embeddings"
    )
    default_strategy: str
    default_detail: str
    default_seed: int
    max_image_bytes: int
    max_image_pixels: int
    max_timeout_s: float
