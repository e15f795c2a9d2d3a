"""Captioners of every family: what their files say, and the engine that runs them."""

from __future__ import annotations

import logging
from dataclasses import replace

from serve_app.engine import image_text, loading
from serve_app.engine.async_engine import AsyncEngine
from serve_app.engine.blip import MODEL_TYPE
from serve_app.engine.checkpoint import check_files, digest, find, read_json, resolve, shown_name
from serve_app.engine.image_text import ImageTextGenerator
from serve_app.engine.reference import ReferenceGenerator
from serve_app.types import EngineLimits, EngineName, ModelInfo

logger = logging.getLogger(__name__)


def is_blip(model: str, revision: str | None = None) -> bool:
    """Whether a checkpoint is one that the decode engine runs. Raises `ModelError`s."""
    return read_json(find(model, revision) / "config.json", model).get("model_type") == MODEL_TYPE


def check_captioner(model: str, revision: str | None = None, prompts: tuple[str, ...] = ()) -> None:
    """Downloads a captioner that is not cached, and raises `ModelError`s unless an engine can run it."""
    if is_blip(model, revision):
        resolve(model, revision)
        return
    directory = find(model, revision)
    image_text.family_of(read_json(directory / "config.json", model), directory, model, prompts)
    check_files(directory, model, image_text.TOKENIZER_FILES)


def taken(model: str, revision: str | None = None, prompts: tuple[str, ...] = ()) -> ModelInfo:
    """Which images a captioner takes, by its files; without their revision, for which they are read whole.

    Raises `ModelError`s.
    """
    check_captioner(model, revision, prompts)
    if is_blip(model, revision):
        height, width = loading.image_size(model, revision)
        return ModelInfo(shown_name(model), height, width, 0, "", "")
    directory = find(model, revision)
    family = image_text.family_of(read_json(directory / "config.json", model), directory, model, prompts)
    return image_text.info_of(model, family)


def captioner_info(model: str, revision: str | None = None, prompts: tuple[str, ...] = ()) -> ModelInfo:
    """What a captioner's files say of it: name, images, prompts and revision. Raises `ModelError`s."""
    return replace(taken(model, revision, prompts), revision=digest(find(model, revision)))


def open_captioner(
    model: str,
    engine: EngineName = "decode",
    limits: EngineLimits | None = None,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    prompts: tuple[str, ...] = (),
) -> AsyncEngine | ReferenceGenerator | ImageTextGenerator:
    """Loads a captioner and starts its engine: BLIP's is `engine`, that of every other family transformers' generate,
    asked by its own prompts unless there are `prompts`.

    Raises `ModelError`s.
    """
    if not is_blip(model, revision):
        if engine == "decode":
            logger.info("%s is no BLIP captioner: transformers' generate runs it.", model)
        loaded_any = image_text.load_any(model, revision=revision, dtype=dtype, device=device, prompts=prompts)
        return ImageTextGenerator(loaded_any)
    loaded = loading.load(model, revision=revision, dtype=dtype, device=device)
    return AsyncEngine(loaded, limits) if engine == "decode" else ReferenceGenerator(loaded)
