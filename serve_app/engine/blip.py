"""What is BLIP's own. Another captioner that the decode engine is to run supplies the same facts in a module like this
one, and `vision.py`, `decoder.py` and `image_cache.py`, which hold BLIP's layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipForQuestionAnswering

MODEL_TYPE = "blip"
"""`model_type` in a checkpoint's config.json."""

# The classes of transformers that hold a checkpoint.
Captioner: TypeAlias = BlipForConditionalGeneration
Retriever: TypeAlias = BlipForImageTextRetrieval
Answerer: TypeAlias = BlipForQuestionAnswering

IMAGE_MEAN, IMAGE_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Channel means and deviations of the image processor, unless its settings say others. They are CLIP's."""

_EMBEDDED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a checkpoint is for."""

    name: str
    """Completes "a BLIP … model"."""
    architecture: str
    """In `architectures` of config.json."""
    demo: Path
    """Directory of the embedded model."""


CAPTIONING = ModelKind("captioning", Captioner.__name__, _EMBEDDED / "demo")
MATCHING = ModelKind("matching", Retriever.__name__, _EMBEDDED / "demo-matcher")
ANSWERING = ModelKind("question answering", Answerer.__name__, _EMBEDDED / "demo-answerer")


def image_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """The (height, width) in pixels that images are resized to, from config.json. Raises `KeyError` or `TypeError`."""
    size = config["vision_config"]["image_size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def patches(config: Any, height: int, width: int) -> int:
    """Vectors that stand for an image: one for each patch, and the class token's."""
    size: int = config.vision_config.patch_size
    return (height // size) * (width // size) + 1


def positions(config: Any) -> int:
    """Tokens of a text, its prompt included."""
    return int(config.text_config.max_position_embeddings)


def start_token(config: Any) -> int:
    """Begins every text of the decoder."""
    return int(config.text_config.bos_token_id)


def end_token(config: Any) -> int:
    """Ends every text."""
    return int(config.text_config.sep_token_id)


def generate_ids(prompt: Sequence[int]) -> list[int]:
    """What `generate` takes for a prompt: it drops the last token, which the processor puts behind the prompt."""
    return [*prompt, 0]
