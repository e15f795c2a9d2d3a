"""Loading a BLIP captioner onto a device; the one way for every checkpoint."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil
import torch
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from serve_app.engine import blip
from serve_app.engine.blip import ANSWERING, CAPTIONING, MATCHING, ModelKind
from serve_app.engine.checkpoint import digest, read_json, resolve, shown_name
from serve_app.engine.precision import Precision
from serve_app.errors import DeviceUnavailable, ModelError, ModelIncomplete, ModelUnsupported
from serve_app.types import ModelInfo

logger = logging.getLogger(__name__)

_HEADROOM = 1.5
"""Free memory asked for, as a multiple of the weights: they are read next to the model's own copy."""


Model = TypeVar("Model", bound=PreTrainedModel)


@dataclass(frozen=True)  # no slots: a frozen generic class with them cannot be made by its alias, such as `Loaded`
class LoadedModel(Generic[Model]):
    """A model ready to run. `mean` and `std` per channel, for pixels scaled to 0…1."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    mean: tuple[float, ...]
    std: tuple[float, ...]
    info: ModelInfo
    precision: Precision


Loaded = LoadedModel[blip.Captioner]


def load(model: str = "demo", *, revision: str | None = None, dtype: str = "auto", device: str = "auto") -> Loaded:
    """Loads a captioner from safetensors, never with remote code.

    `dtype`: see `Precision.of`; "int8" loads float32, which the decode engine then quantizes.
    `device`: "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:N".
    Raises `ModelError`s, each with one sentence.
    """
    return _load(blip.Captioner, CAPTIONING, model, revision, dtype, device)


def load_matcher(
    model: str = "demo", *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> LoadedModel[blip.Retriever]:
    """Loads a matcher as `load` loads a captioner; without int8 and fp8."""
    return _load(blip.Retriever, MATCHING, model, revision, _without_8_bits(dtype), device)


def load_answerer(
    model: str = "demo", *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> LoadedModel[blip.Answerer]:
    """Loads a question answering model as `load` loads a captioner; without int8 and fp8."""
    return _load(blip.Answerer, ANSWERING, model, revision, _without_8_bits(dtype), device)


def _without_8_bits(dtype: str) -> str:
    if dtype in ("int8", "fp8"):
        raise ModelUnsupported(f"{dtype} is for captioning models; matching and answering take float32 or bfloat16.")
    return dtype


def _load(
    kind: type[Model], task: ModelKind, model: str, revision: str | None, dtype: str, device: str
) -> LoadedModel[Model]:
    target = device_called(device)
    precision = Precision.of(dtype, target)
    directory = resolve(model, revision, task)
    check_memory(directory, model, precision.dtype, target)
    network: Model = onto(target, weights(kind, directory, model, precision.dtype), model)
    tokenizer = _tokenizer(directory, model)
    image = _image_settings(directory, model)
    config: Any = network.config
    height, width = blip.image_size(config.to_dict())
    info = ModelInfo(
        name=shown_name(model),
        image_height=height,
        image_width=width,
        max_positions=blip.positions(config),
        dtype=precision.name,
        device=str(target),
        revision=digest(directory),
    )
    mean, std = tuple(image.get("image_mean", blip.IMAGE_MEAN)), tuple(image.get("image_std", blip.IMAGE_STD))
    logger.info("Loaded %s: %s on %s, images of %d×%d pixels.", model, info.dtype, info.device, height, width)
    return LoadedModel(network, tokenizer, mean, std, info, precision)


def file_info(model: str, revision: str | None = None, kind: ModelKind = CAPTIONING) -> ModelInfo:
    """What a checkpoint's files say of it without loading it: name, image size and revision. Raises `ModelError`s."""
    directory = resolve(model, revision, kind)
    config = read_json(directory / "config.json", model)
    height, width = blip.image_size(config)
    return ModelInfo(shown_name(model), height, width, 0, "", "", digest(directory))


def image_size(model: str, revision: str | None = None) -> tuple[int, int]:
    """The (height, width) in pixels that a checkpoint takes, without loading it. Raises `ModelError`s."""
    config = read_json(resolve(model, revision) / "config.json", model)
    try:
        return blip.image_size(config)
    except (KeyError, TypeError, IndexError) as error:
        raise ModelIncomplete(
            f"The config.json of the checkpoint {model!r} does not say how large its images are."
        ) from error


def device_called(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceUnavailable(f"There is no kind of device {name!r}; use auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceUnavailable(f"The device {name!r} is not supported; use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceUnavailable(
            f"The device {name!r} was asked for and this machine offers {torch.cuda.device_count()} GPUs."
        )
    if device.type == "cuda" and ":" not in name:  # torch.cuda.set_device and streams want to know which
        return torch.device("cuda", torch.cuda.current_device())
    return device


def check_memory(directory: Path, model: str, dtype: torch.dtype, device: torch.device) -> None:
    stored = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    needed = int(stored * _HEADROOM * (dtype.itemsize / 4 if device.type == "cpu" else 1))
    free = psutil.virtual_memory().available
    if needed > free:
        raise ModelError(
            f"Loading {model!r} takes about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free."
        )


def onto(target: torch.device, network: Model, model: str) -> Model:
    """The model on a device, ready to run. Raises `ModelError`."""
    try:
        torch.nn.Module.to(network, target)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"The model {model!r} does not fit into the free memory of {target}.") from error
    torch.nn.Module.train(network, False)
    return network


def weights(kind: Any, directory: Path, model: str, dtype: torch.dtype, spare: str = "no tensor") -> Any:
    """The model of a checkpoint in safetensors, which may lack tensors with `spare` in their names.

    Raises `ModelIncomplete`.
    """
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        loaded: Any = kind.from_pretrained(
            str(directory),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise ModelIncomplete(
            f"The checkpoint {model!r} does not fit its configuration: {first_line(error)}"
        ) from error
    network, report = loaded
    if missing := sorted(key for key in report["missing_keys"] if spare not in key):
        raise ModelIncomplete(f"The checkpoint {model!r} lacks {len(missing)} tensors, {missing[0]} for one.")
    return network


def _tokenizer(directory: Path, model: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizer library raises bare Exceptions for broken files
        raise ModelIncomplete(
            f"The tokenizer of the checkpoint {model!r} is not readable: {first_line(error)}"
        ) from error


def _image_settings(directory: Path, model: str) -> dict[str, Any]:
    """The image processor's settings; newer checkpoints keep them inside processor_config.json."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (directory / name).is_file():
            settings = read_json(directory / name, model)
            settings = settings.get("image_processor", settings)
            if "image_mean" in settings:
                return dict(settings)
    return {}


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
