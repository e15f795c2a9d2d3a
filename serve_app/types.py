"""Frozen values that cross layers, and the protocols between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from serve_app.errors import CaptionServeError

Strategy = Literal["grounded", "classic", "basic"]
STRATEGIES: Mapping[Strategy, str] = {
    "grounded": "only what the image supports",
    "classic": "the longest",
    "basic": "one short caption",
}
"""What the caption of each strategy is."""
STRATEGY = "; ".join(f"{name}: {sentence}" for name, sentence in STRATEGIES.items())
"""What every interface says of the option."""
Detail = Literal["high", "medium", "low"]
EngineName = Literal["decode", "transformers", "reference"]
Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"]
DTYPES = (
    "auto: float32 on a CPU, bfloat16 or else float16 on a GPU; int8: 8-bit decoder weights, on a CPU; "
    "fp8: bfloat16 with keys and values in 8 bits, on a GPU"
)
"""What the settings and flags say of `Dtype`."""

ROUNDS_BY_DETAIL: Mapping[Detail, int] = {"low": 1, "medium": 2, "high": 3}
MAX_ROUNDS = max(ROUNDS_BY_DETAIL.values())
MIN_CHARACTERS = 20
"""Least `max_characters`: enough for one short statement."""
LEFT_OUT = "Left out"
"""Begins the notice of a caption that a length limit took statements from."""
TOO_LONG = "The caption cannot be shortened to the length that was asked for."
"""The notice of a caption that is longer all the same: one statement is never cut."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """How much the decode engine takes on at once; what doesn't fit waits."""

    max_rows: int = 256
    max_cache_bytes: int = 4_000_000_000
    max_image_cache_bytes: int = 1_000_000_000
    max_beams: int = 8
    """Beams of a group; all groups take so many rows, but those without beams."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """An RGB image at the model's size.

    `data` holds height × width × 3 bytes in row order; `digest` identifies them (hexadecimal).
    """

    digest: str
    height: int
    width: int
    data: bytes = field(repr=False)


Fit = Literal["exact", "longest"]


@dataclass(frozen=True, slots=True)
class Size:
    """How an image comes to a model: stretched to height × width, or in its own proportions within them (pixels)."""

    height: int
    width: int
    fit: Fit = "exact"


Picture = Mapping[Size, Pixels]
"""One image at the sizes of several models."""


@dataclass(frozen=True, slots=True)
class GenerationParameters:
    """Parameters of one generate call, named and meant as in transformers' `GenerationConfig`.

    None leaves the checkpoint's own default. `max_length` counts the prompt too.
    """

    max_length: int | None = None
    min_length: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    early_stopping: bool | Literal["never"] | None = None
    num_return_sequences: int | None = None


@dataclass(frozen=True, slots=True)
class GenerateJob:
    """One prompt to run on an image. An empty prompt is the unconditional caption.

    `seed` fixes the random stream of a sampling job; it is ignored by others.
    """

    prompt: str
    parameters: GenerationParameters
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Generated:
    """What a job produced. `text` begins with `prompt`, both as the tokenizer decodes them."""

    text: str
    prompt: str = ""
    log_probability: float | None = None
    """Beam score of the sequence (`sequences_scores` of transformers); None without beams."""
    tokens: int = 0
    """Generated tokens, the prompt left out."""
    alternatives: tuple[Generated, ...] = ()
    """The further sequences that `num_return_sequences` asked for, best first."""


Outcome = Generated | CaptionServeError
"""The result of one job; a job's failure does not touch its neighbours."""


CHAT_PROMPTS = (
    "Describe this image in detail.",
    "Name everything in this image, with its number, its color and its place.",
    "Describe the foreground and the background of this image.",
)
"""What the variants of a caption ask a model that follows requests."""


OnOutcome = Callable[[int, Outcome], None]
"""Called with each job as it ends: its place in the call, and its outcome."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What callers must know of the loaded model. Sizes in pixels."""

    name: str
    image_height: int
    image_width: int
    max_positions: int
    dtype: str
    device: str
    revision: str = ""
    """SHA-256 over the checkpoint's files, hexadecimal; empty for what has no files."""
    fit: Fit = "exact"
    """How an image comes to the size: it is stretched to it, or keeps its proportions within it."""
    prompts: tuple[str, ...] = ()
    """What the variants of a caption ask it; empty for the presets."""
    continues: bool = True
    """Whether it can be asked to go on with a caption."""
    chats: bool = False
    """Whether it follows requests, so that there may be more in its answers than a description."""
    sequential: bool = False
    """Whether its jobs run one after the other."""

    @property
    def size(self) -> Size:
        return Size(self.image_height, self.image_width, self.fit)


class Generator(Protocol):
    """Runs prompts on an image."""

    async def info(self) -> ModelInfo: ...

    async def generate(
        self,
        pixels: Pixels,
        jobs: Sequence[GenerateJob],
        timeout_s: float | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> list[Outcome]:
        """Runs all jobs on one image and returns their outcomes in order.

        `on_outcome` is called once for each job as it ends, and not for those that a raised error ends.
        After `timeout_s` seconds unfinished jobs end with `DeadlineExceeded`. Raises `ServiceError`
        when no job could be run at all.
        """
        ...


@dataclass(frozen=True, slots=True)
class Match:
    """How well a text describes an image."""

    probability: float
    """Image–text matching (ITM): the probability that it does, 0…1."""
    similarity: float | None = None
    """Image–text contrast (ITC): cosine of both vectors, -1…1; None if it was not asked for."""


@runtime_checkable
class HasInfo(Protocol):
    """A model that says which one it is."""

    async def info(self) -> ModelInfo: ...


class Matcher(Protocol):
    """Scores texts against an image."""

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        """Each text's match in order. `similarity` asks for the vectors' cosine too.

        Raises `DeadlineExceeded` after `timeout_s` seconds, and other `ServiceError`s if none was scored.
        """
        ...


@dataclass(frozen=True, slots=True)
class CaptionOptions:
    """What a caller asks for, validated and with every default filled in."""

    strategy: Strategy
    rounds: int
    prompts: tuple[str, ...]
    """Instead of the presets' variant prompts; () keeps them."""
    seed: int
    timeout_s: float
    extra_prompts: tuple[str, ...] = ()
    """Further variant prompts, after the others."""
    max_words: int | None = None
    max_characters: int | None = None
    """Longest caption; whole statements are left out until it fits."""
    ask: bool | None = None
    """Whether rounds ask questions; None if there is an answerer."""
    questions: tuple[str, ...] = ()
    """A caller's own, asked besides."""
    use: tuple[str, ...] = ()
    """Names of the captioners that take part; () for all."""
    tidy: bool = True
    """Whether `basic` and `classic` write sentences without noise; False gives their reference's text to the letter."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One prompt's cleaned text; empty when it failed (then `degraded` says why)."""

    prompt: str
    text: str
    score: float | None = None
    captioner: str | None = None
    """Name of the captioner that wrote it, if there are several."""


@dataclass(frozen=True, slots=True)
class Round:
    """One refinement pass; `text` is the caption after it, with `classic` the one that it proposed."""

    round: int
    text: str
    accepted: bool


SourceKind = Literal["variant", "extension", "round", "answer"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a piece of the caption came from. What does not apply is None."""

    kind: SourceKind
    index: int | None = None
    """Place among the variants, extensions or questions from 1, or number of the round; None for words of all
    variants."""
    captioner: str | None = None
    """Name of the captioner that wrote it, if there are several."""
    prompt: str | None = None
    """What the model was asked; empty for the unconditional caption."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A piece of the caption: `text == caption[start:end]`. Clauses stand in the caption's order and don't overlap."""

    text: str
    start: int
    end: int
    source: Source
    statement: str | None = None
    """The short sentence that was weighed; None if nothing was."""
    score: float | None = None
    """Support: the probability that the statement is true, 0…1."""
    whole: bool = False
    """Whether the piece could not be taken apart into statements and was weighed as it stands."""


@dataclass(frozen=True, slots=True)
class Contested:
    """A statement that was left out because it contradicts another one. `score` and `against_score` are their supports;
    if they are about equal, both are left out."""

    text: str
    score: float
    against: str
    against_score: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was asked for the caption, and what came of it."""

    question: str
    answer: str
    probability: float
    statement: str | None = None
    """The sentence that the answer made; None if it says nothing that a caption could."""
    accepted: bool = False
    """Whether the caption says it because of the answer."""


class Polisher(Protocol):
    """Rewrites a caption fluently and adds nothing."""

    model: str

    async def polish(self, caption: str, clauses: Sequence[Clause], timeout_s: float) -> str:
        """Raises `PolishFailed`."""
        ...


@dataclass(frozen=True, slots=True)
class CaptionResult:
    """A caption and how it came to be. `timings_ms` has a key for each step that ran, and `total`."""

    caption: str
    model: str
    seed: int
    variants: tuple[Variant, ...] = ()
    rounds: tuple[Round, ...] = ()
    clauses: tuple[Clause, ...] = ()
    contested: tuple[Contested, ...] = ()
    answers: tuple[Asked, ...] = ()
    degraded: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    """What a reader of the caption should know although nothing is missing."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""
    """What made it, see `serve_app.pipeline.fingerprint`."""
