"""Finding a checkpoint: the embedded model, a local directory, or a hub id."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from serve_app.engine.blip import CAPTIONING, MODEL_TYPE, ModelKind
from serve_app.errors import ModelIncomplete, ModelNotFound, ModelUnreachable, ModelUnsupported

DEMO_MODEL = "demo"
DEMO_DIRECTORY = CAPTIONING.demo

_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_WANTED_FILES = ("*.json", "*.txt", "*.safetensors", "*.jinja", "*.model")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_UNSAFE_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")


def resolve(model: str, revision: str | None = None, task: ModelKind = CAPTIONING) -> Path:
    """Returns the directory of a checked checkpoint for the task.

    Raises as `find` does, and `ModelIncomplete` or `ModelUnsupported`.
    """
    directory = find(model, revision, task)
    check(directory, model, task)
    return directory


def find(model: str, revision: str | None = None, task: ModelKind = CAPTIONING) -> Path:
    """Returns the directory of a checkpoint.

    `model` is "demo", a local directory, or a hub id, which is downloaded when it is not cached.
    Raises `ModelNotFound` or `ModelUnreachable`.
    """
    if model == DEMO_MODEL:
        return task.demo
    if (local := _local(model)) is not None:
        return local
    if _HUB_ID.match(model) and not model.startswith(("./", "../", "~")):
        return _download(model, revision)
    raise ModelNotFound(f"There is no directory {model!r}, and it is not the id of a model on the hub.")


def shown_name(model: str) -> str:
    """What answers call the model: of a directory its last part, since callers need not know where it lies."""
    directory = _local(model) if model != DEMO_MODEL else None
    return model if directory is None else directory.resolve().name


def _local(model: str) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if model and path.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # no such user, no permission, a name that no file can have
        return None


def _download(model: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(_WANTED_FILES)))
    except GatedRepoError as error:
        raise ModelNotFound(
            f"The hub gives {model!r} only to accounts that accepted its terms; set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(f"There is neither a directory nor a public hub repository {model!r}.") from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(f"The hub repository {model!r} has no revision {revision!r}.") from error
    except HFValidationError as error:
        raise ModelNotFound(f"{model!r} is not a valid hub id.") from error
    except PermissionError as error:
        raise ModelUnreachable(f"The model {model!r} cannot be stored in the hub's cache: {error}.") from error
    except Exception as error:  # network, proxy and transfer errors come from several libraries without a common root
        raise ModelUnreachable(
            f"The model {model!r} is not in the local cache and cannot be downloaded ({type(error).__name__}); "
            "download it elsewhere and give its directory as the model."
        ) from error


def check(directory: Path, model: str, task: ModelKind = CAPTIONING) -> None:
    """Raises unless `directory` holds a whole BLIP checkpoint for the task in safetensors."""
    config = read_json(directory / "config.json", model)
    architectures = config.get("architectures") or [task.architecture]
    if config.get("model_type") != MODEL_TYPE or task.architecture not in architectures:
        found = architectures[0] if config.get("architectures") else f"model type {config.get('model_type')!r}"
        raise ModelUnsupported(
            f"The checkpoint {model!r} is {found}; a BLIP {task.name} model ({task.architecture}) is needed."
        )
    check_files(directory, model, _TOKENIZER_FILES)


def check_files(directory: Path, model: str, tokenizers: Sequence[str]) -> None:
    """Raises unless there are one of these files of a tokenizer, and whole weights in safetensors."""
    if not any((directory / name).is_file() for name in tokenizers):
        raise ModelIncomplete(f"The checkpoint {model!r} has no tokenizer ({' or '.join(tokenizers)}).")
    for file in _weight_files(directory, model):
        _check_weights(file, model)


def digest(directory: Path) -> str:
    """SHA-256 over the checkpoint's files and their names, hexadecimal: equal wherever they lie."""
    found = hashlib.sha256()
    for file in sorted(file for pattern in _WANTED_FILES for file in directory.glob(pattern)):
        with file.open("rb") as stream:
            found.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return found.hexdigest()


def read_json(file: Path, model: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelIncomplete(f"The checkpoint {model!r} has no {file.name}.") from error
    except (OSError, ValueError) as error:
        raise ModelIncomplete(f"The file {file.name} of the checkpoint {model!r} is not readable JSON.") from error
    if not isinstance(content, dict):
        raise ModelIncomplete(f"The file {file.name} of the checkpoint {model!r} is not a JSON object.")
    return content


def _weight_files(directory: Path, model: str) -> list[Path]:
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = read_json(index, model).get("weight_map", {})
        return [directory / name for name in sorted(set(shards.values()))]
    if any((directory / name).exists() for name in _UNSAFE_WEIGHTS):
        raise ModelUnsupported(f"The checkpoint {model!r} has no safetensors weights; other formats are not loaded.")
    raise ModelIncomplete(f"The checkpoint {model!r} has no model.safetensors.")


def _check_weights(file: Path, model: str) -> None:
    """Compares the file's size with what its header promises.

    The format: 8 bytes little-endian header length, a JSON header with each tensor's
    `data_offsets`, the data (https://github.com/huggingface/safetensors).
    """
    problem = f"The file {file.name} of the checkpoint {model!r} "
    if not file.is_file():
        raise ModelIncomplete(problem + "is missing.")
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length)) if length < size else {}
        expected = (
            8 + length + max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        )
    except (ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise ModelIncomplete(problem + "is cut short or no safetensors file.") from error
    if size != expected:
        raise ModelIncomplete(problem + f"has {size} of {expected} bytes; download it again.")
