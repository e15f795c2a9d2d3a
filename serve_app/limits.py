"""What a service allows and assumes: each setting once, with its default, bounds and meaning.

`AppArgs` has all of these settings besides its own.
"""

from __future__ import annotations

import ipaddress
import ssl
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from serve_app.types import Detail, EngineLimits, Strategy


class Limits(BaseModel):
    """What a request may ask for, and what it gets when it doesn't say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default_strategy: Strategy = Field("grounded", description="strategy of requests that name none")
    default_detail: Detail = Field("high", description="detail of requests that name none")
    default_seed: int = Field(0, ge=0, description="seed of requests that name none")
    default_timeout_s: float = Field(300.0, gt=0, description="seconds a request may take when it doesn't say")
    max_timeout_s: float = Field(600.0, gt=0, description="most seconds that a request may ask for")
    max_image_bytes: int = Field(20_000_000, gt=0, description="largest image file, bytes")
    max_image_pixels: int = Field(50_000_000, gt=0, description="largest image, width × height")
    decode_memory_bytes: int = Field(
        1_000_000_000, gt=0, description="memory of images that an ingress replica decodes at once; a larger one alone"
    )
    body_memory_bytes: int = Field(
        1_000_000_000,
        gt=0,
        description="memory of the bodies of an ingress replica's requests in progress; JSON counts threefold, "
        "since it is also parsed; what does not fit is rejected for load",
    )
    max_prompts: int = Field(8, ge=1, description="most variant prompts of a request")
    max_prompt_characters: int = Field(400, ge=1, description="longest prompt of a request, characters")
    max_texts: int = Field(64, ge=1, description="most texts of a request for matching or filtering")
    max_text_characters: int = Field(2000, ge=1, description="longest such text, and longest question, characters")
    max_embedding_texts: int = Field(2048, ge=1, description="most texts of a request for vectors")
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
    fetch_proxy: str | None = Field(None, description="http proxy through which URLs are fetched, http://host:port")
    fetch_ca_file: str | None = Field(None, description="file of certificates (PEM) that are trusted besides the usual")
    fetch_contact: str = Field("", description="address or page for the User-Agent, which some sites ask for")
    fetch_timeout_s: float = Field(10.0, gt=0, description="seconds for an image that is fetched, redirects included")
    webhook_hosts: tuple[str, ...] = Field(
        (),
        description="hosts whose webhooks are called, in the form of fetch_hosts and by the other fetch_ settings; "
        "none unless set",
    )
    key_rows_per_minute: int | None = Field(
        None,
        ge=1,
        description="work of one API key in a minute, in rows: a caption of detail high is 46, low 32, basic 1; an "
        "answer, a match or a vector is 1; None: any",
    )
    key_rows_at_once: int | None = Field(None, ge=1, description="work of one API key at once, in rows; None: any")
    served_names: tuple[str, ...] = Field(
        (),
        description="names under which OpenAI's and Ollama's clients find the model, the first in answers, * for any; "
        "none: the model's own",
    )
    chat_without_image: Literal["explain", "reject"] = Field(
        "explain",
        description="chats without an image, as clients' set-up checks send them: explain: an answer that says "
        "what the service does; reject: 400",
    )
    result_cache_entries: int = Field(
        0, ge=0, description="answers that an ingress replica keeps for the same image and options again; 0: none"
    )
    result_cache_shared: bool = Field(
        False, description="whether an answer that was made for one API key is given to others"
    )
    job_kept_s: float = Field(
        86400.0, gt=0, description="seconds that captions which outlive their request may take, and are kept"
    )
    access_log: Literal["all", "errors", "none"] = Field(
        "all", description="requests that get a line in the log: all, errors (status 400 and above), or none"
    )
    overload_status: Literal[503, 429] = Field(503, description="HTTP status of requests that are rejected for load")

    @field_validator("fetch_networks")
    @classmethod
    def _are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network, strict=False)
        return networks

    @field_validator("fetch_ca_file")
    @classmethod
    def _is_certificates(cls, file: str | None) -> str | None:
        if file is not None:
            try:
                ssl.create_default_context(cafile=file)
            except OSError as error:  # ssl.SSLError is one
                raise ValueError(f"{file} is no readable file of certificates") from error
        return file

    @field_validator("fetch_proxy")
    @classmethod
    def _is_proxy(cls, proxy: str | None) -> str | None:
        if proxy is not None and not (proxy.startswith("http://") and urlsplit(proxy).hostname):
            raise ValueError("a proxy is http://host:port")
        return proxy


_ENGINE = EngineLimits()


class EngineSettings(BaseModel):
    """What of `EngineLimits` is a setting; the rest follows from others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_rows: int = Field(_ENGINE.max_rows, ge=1, description="rows (beams) of the decode engine's batch; more wait")
    max_cache_bytes: int = Field(
        _ENGINE.max_cache_bytes,
        gt=0,
        description="bytes of the self-attention caches of all rows; what outgrows them ends alone",
    )
    max_image_cache_bytes: int = Field(
        _ENGINE.max_image_cache_bytes, gt=0, description="bytes of encoded images that are kept"
    )
