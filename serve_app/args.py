"""Every setting of the service, once: its default, unit and meaning."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from serve_app.errors import InvalidOption
from serve_app.types import DTYPES, Detail, Dtype, EngineLimits, EngineName, GenerationParameters, Limits, Strategy

_PARAMETERS = TypeAdapter(GenerationParameters)


LIVE = frozenset(
    {
        *Limits.__dataclass_fields__,
        "admission_depth",
        "clause_floor",
        "max_retries",
        "presets",
        "spread",
    }
)
"""Settings that the ingress takes from its `user_config` too, and changes while it serves."""


def matcher_for(model: str, matcher: str | None) -> str | None:
    """The matcher of commands that load models themselves: what was given ("none" for none), else the embedded one
    beside the embedded captioner."""
    if matcher is None:
        return "demo" if model == "demo" else None
    return None if matcher == "none" else matcher


class AppArgs(BaseModel):
    """Arguments of `serve_app.app:build_app`, from a config file's `args` or from `key=value` words."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = Field("demo", description="demo, a local directory, or a hub id")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    dtype: Dtype = Field("auto", description=DTYPES)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of a replica; None: what Ray sets, its num_cpus"
    )
    engine: EngineName | Literal["instant"] = Field(
        "decode",
        description="decode; reference: transformers' generate, one job at a time; "
        "instant: no model, a fixed text, to measure the service around the engine",
    )
    instant_delay_s: float = Field(0.0, ge=0, description="seconds that a call of the instant engine takes")
    max_rows: int = Field(256, ge=1, description="rows (beams) of the decode engine's batch; more wait")
    max_cache_bytes: int = Field(
        4_000_000_000, gt=0, description="bytes of the self-attention caches of all rows; what outgrows them ends alone"
    )
    max_image_cache_bytes: int = Field(1_000_000_000, gt=0, description="bytes of encoded images that are kept")

    matcher: str | None = Field(
        None,
        description="model for image–text matching: demo, a directory, or a hub id such as "
        "Salesforce/blip-itm-base-coco; None: no Matcher deployment, and grounded captions go by agreement",
    )
    matcher_revision: str | None = Field(None, description="as revision, of the matcher")
    answerer: str | None = Field(
        None,
        description="model for questions: demo, a directory, or a hub id such as Salesforce/blip-vqa-base; "
        "None: no Answerer deployment",
    )
    answerer_revision: str | None = Field(None, description="as revision, of the answerer")
    clause_floor: float | None = Field(
        None,
        ge=0,
        le=1,
        description="support that a statement needs with a matcher; None: by the matcher's name, pipeline/support.toml",
    )

    polish_url: str | None = Field(
        None,
        description="root of an OpenAI-compatible API whose chat model rewrites grounded captions, such as "
        "http://llm:8000/v1; its key is the environment's CAPTION_SERVE_POLISH_API_KEY; None: nothing is rewritten",
    )
    polish_model: str | None = Field(None, description="name of that chat model")
    polish_timeout_s: float = Field(20.0, gt=0, description="seconds that the chat model may take")

    default_strategy: Strategy = Field("grounded", description="strategy of requests that name none")
    default_detail: Detail = Field("high", description="detail of requests that name none")
    default_seed: int = Field(0, ge=0, description="seed of requests that name none")
    default_timeout_s: float = Field(300.0, gt=0, description="seconds a request may take when it doesn't say")
    max_timeout_s: float = Field(600.0, gt=0, description="most seconds that a request may ask for")
    max_image_bytes: int = Field(20_000_000, gt=0, description="largest image file, bytes")
    max_image_pixels: int = Field(50_000_000, gt=0, description="largest image, width × height")
    max_prompts: int = Field(8, ge=1, description="most variant prompts of a request")
    max_prompt_characters: int = Field(400, ge=1, description="longest prompt of a request, characters")

    max_texts: int = Field(64, ge=1, description="most texts of a request for matching, filtering or embedding")
    max_text_characters: int = Field(2000, ge=1, description="longest such text, and longest question, characters")
    max_batch_images: int = Field(64, ge=1, description="most images of a batch or chat request")
    max_batch_bytes: int = Field(60_000_000, gt=0, description="all images of a batch or chat request together, bytes")
    fetch_hosts: tuple[str, ...] = Field(
        (),
        description="hosts whose images are fetched by URL: names, *.example.org for all below, "
        "* for every public host; none unless set",
    )
    fetch_networks: tuple[str, ...] = Field(
        (), description="networks (CIDR) to fetch from although they are not public"
    )
    fetch_timeout_s: float = Field(10.0, gt=0, description="seconds for an image that is fetched, redirects included")

    api_keys_file: str | None = Field(
        None, description="file of API keys, hashed, one a line; the environment's CAPTION_SERVE_API_KEYS adds to it"
    )
    key_requests_per_minute: int | None = Field(None, ge=1, description="requests a minute of one API key; None: any")
    key_concurrency: int | None = Field(None, ge=1, description="requests of one API key at once; None: any")
    cors_origins: tuple[str, ...] = Field((), description="origins whose web pages may call the API; * for all")

    admission_depth: float = Field(
        4.0, gt=0, description="work that is let in, as a multiple of the rows of all engines; more is sent away"
    )
    overload_status: Literal[503, 429] = Field(503, description="HTTP status of requests that are sent away")
    presets: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="changes to generation parameters, {basic|variant|extension|round: {name: value}}",
    )
    spread: int = Field(1, ge=1, description="replicas that an image's variants are spread over; 1 keeps them together")
    max_retries: int = Field(2, ge=0, description="times a call is sent again when its replica is lost")

    @field_validator("overload_status", mode="before")
    @classmethod
    def _number(cls, status: Any) -> Any:
        return int(status) if isinstance(status, str) and status.isdecimal() else status

    @field_validator("presets")
    @classmethod
    def _of_their_types(cls, presets: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        checked = {}
        for step, given in presets.items():
            parameters = _PARAMETERS.validate_python(given)
            checked[step] = {name: getattr(parameters, name, value) for name, value in given.items()}
        return checked

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.default_timeout_s > self.max_timeout_s:
            raise ValueError("default_timeout_s must not be above max_timeout_s")
        if (self.polish_url is None) != (self.polish_model is None):
            raise ValueError("polish_url and polish_model go together")
        return self

    def reconfigured(self, user_config: Mapping[str, Any]) -> Self:
        """These settings with the live ones changed. Raises pydantic's `ValidationError` and `InvalidOption`."""
        if fixed := sorted(set(user_config) - LIVE):
            raise InvalidOption(f"{fixed[0]}: not a live setting; user_config takes {', '.join(sorted(LIVE))}.")
        changed = type(self).model_validate({**self.model_dump(exclude_unset=True), **user_config})
        if changed.engine_limits().max_beams > (most := self.engine_limits().max_beams):
            raise InvalidOption(f"presets: the captioners were started for at most {most} beams; set more in the args.")
        return changed

    @property
    def task_dtype(self) -> str:
        """`dtype` for the matcher and the answerer, which have no 8-bit formats."""
        return "auto" if self.dtype in ("int8", "fp8") else self.dtype

    def limits(self) -> Limits:
        return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})

    def engine_limits(self) -> EngineLimits:
        """Those of these settings; a group has as many rows as the preset with the most beams asks for."""
        names = EngineLimits.__dataclass_fields__.keys() - {"max_beams"}
        beams = [step.get("num_beams") or 1 for step in self.presets.values()]
        most = max([EngineLimits().max_beams, *beams])
        return EngineLimits(**{name: getattr(self, name) for name in names}, max_beams=most)


class PageArgs(BaseModel):
    """Arguments of `serve_app.app:build_page`, the web page's application."""

    model_config = ConfigDict(extra="forbid")

    application: str = Field("captions", description="name of the application that captions")
    root_path: str = Field("/ui", description="the application's route_prefix")
    api_keys_file: str | None = Field(
        None, description="as in AppArgs; a visitor gives a key as password, any user name"
    )
