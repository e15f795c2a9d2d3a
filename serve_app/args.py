"""Every setting of the service, once: its default, unit and meaning."""

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from serve_app.errors import InvalidOption
from serve_app.limits import EngineSettings, Limits
from serve_app.options import Prompt
from serve_app.steps import ONLY
from serve_app.types import DTYPES, Dtype, EngineLimits, EngineName, GenerationParameters

_PARAMETERS = TypeAdapter(GenerationParameters)


LIVE = frozenset(
    {
        *Limits.model_fields,
        "admission_depth",
        "clause_floor",
        "max_retries",
        "presets",
        "captioner_patience_s",
        "spread",
    }
)
"""Settings that the ingress takes from its `user_config` too, and changes while it serves."""


def matcher_for(models: Collection[str], matcher: str | None) -> str | None:
    """The matcher of commands that load models themselves: what was given ("none" for none), else the embedded one
    beside embedded captioners."""
    if matcher is None:
        return "demo" if all(model == "demo" for model in models) else None
    return None if matcher == "none" else matcher


class CaptionerSettings(EngineSettings):
    """What a captioner is and runs on."""

    model: str = Field("demo", description="demo, a local directory, or a hub id")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    dtype: Dtype = Field("auto", description=DTYPES)
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    torch_threads: int | None = Field(
        None, ge=1, description="CPU threads of a replica; None: what Ray sets, its num_cpus"
    )
    engine: EngineName | Literal["instant", "openai"] = Field(
        "decode",
        description="of BLIP: decode, or transformers: its generate, one job at a time, as for every other family "
        "(reference is the same); openai: a chat model at captioner_url; "
        "instant: no model, a fixed text, to measure the service around the engine",
    )
    instant_delay_s: float = Field(0.0, ge=0, description="seconds that a call of the instant engine takes")

    captioner_url: str | None = Field(
        None,
        description="with engine openai: root of an OpenAI-compatible API whose model captions, such as "
        "http://vlm:8000/v1; key: the environment's CAPTION_SERVE_CAPTIONER_API_KEY",
    )
    captioner_concurrency: int = Field(16, ge=1, description="requests that a replica has there at once")
    variant_prompts: tuple[Prompt, ...] = Field(
        (), description="prompts of its variants; none: by the model's family, see serve_app/engine/families.py"
    )


class CaptionerArgs(CaptionerSettings):
    """One of several captioners."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", description="lower-case letters, digits, -")


SHARED = frozenset({"dtype", "device", "torch_threads", *EngineSettings.model_fields})
"""Settings of a service that hold for each of its captioners which has none of its own."""


class AppArgs(Limits, CaptionerSettings):
    """Arguments of `serve_app.app:build_app`, from a config file's `args` or from `key=value` words."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    captioners: tuple[CaptionerArgs, ...] = Field(
        (),
        description="several captioners instead of `model`, each with a name and settings of its own, and a deployment "
        "Captioner-NAME; what it does not set of dtype, device, torch_threads and the engine's sizes is the service's",
    )
    captioner_patience_s: float = Field(
        30.0,
        gt=0,
        description="with several captioners: seconds that a caption waits for the others once one has answered, and "
        "half of what is left of the request's time at the most",
    )

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

    api_keys_file: str | None = Field(
        None,
        description="file of API keys, hashed, one a line; None: the environment's CAPTION_SERVE_API_KEYS_FILE, if it "
        "is set; CAPTION_SERVE_API_KEYS adds to it; the page asks for the same keys",
    )
    redis_url: str | None = Field(
        None,
        description="Redis in which all ingress replicas count what API keys use, and keep answers if "
        "result_cache_entries is set, such as redis://redis:6379/1; "
        "None: each counts its share",
    )
    job_store: str | None = Field(
        None,
        description="Redis (redis://…) or directory of captions that outlive their request (`Prefer: respond-async`), "
        "the same for all ingress replicas; None: such requests are answered at once",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names (without port) for which requests are answered, *.example.org for all below; none: any"
    )
    cors_origins: tuple[str, ...] = Field((), description="origins whose web pages may call the API; * for all")

    admission_depth: float = Field(
        4.0, gt=0, description="admitted work, as a multiple of the rows of all engines; more is rejected"
    )
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

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != "*" and origin != f"{parts.scheme}://{parts.netloc}":
                raise ValueError(f"{origin!r} is no origin: scheme, host and port without a path or slash behind")
        return origins

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
        if (self.engine == "openai") != (self.captioner_url is not None):
            raise ValueError("engine openai and captioner_url go together")
        own = set(CaptionerSettings.model_fields) - SHARED
        if self.captioners and (given := sorted(own & self.model_fields_set)):
            raise ValueError(f"{given[0]} belongs to one of the captioners, since there are several")
        names = [captioner.name for captioner in self.captioners]
        if len(set(names)) < len(names):
            raise ValueError("captioners have different names")
        for captioner in self.captioners:
            try:
                self._of(captioner)
            except ValidationError as error:
                raise ValueError(f"captioner {captioner.name}: {error.errors()[0]['msg']}") from error
        return self

    def each(self) -> dict[str, Self]:
        """The settings of each captioner by its name, as if it were the only one."""
        return {captioner.name: self._of(captioner) for captioner in self.captioners} or {ONLY: self}

    def _of(self, captioner: CaptionerArgs) -> Self:
        mine = captioner.model_dump(exclude_unset=True, exclude={"name"})
        return type(self).model_validate({**self.model_dump(exclude_unset=True, exclude={"captioners"}), **mine})

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
        return Limits(**{name: getattr(self, name) for name in Limits.model_fields})

    @property
    def rows(self) -> int:
        """Rows that a replica of the captioner works on at once; at a URL a request is one."""
        return self.max_rows if self.captioner_url is None else self.captioner_concurrency

    def engine_limits(self) -> EngineLimits:
        """Those of these settings; a group has as many rows as the preset with the most beams asks for."""
        beams = [step.get("num_beams") or 1 for step in self.presets.values()]
        most = max([EngineLimits().max_beams, *beams])
        return EngineLimits(**{name: getattr(self, name) for name in EngineSettings.model_fields}, max_beams=most)


class PageArgs(BaseModel):
    """Arguments of `serve_app.app:build_page`, the web page's application."""

    model_config = ConfigDict(extra="forbid")

    application: str = Field("captions", description="name of the application that captions")
    root_path: str = Field("/ui", description="the application's route_prefix")
