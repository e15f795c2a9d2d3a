"""How the families of transformers' image-to-text models are asked for a caption, by `model_type` in config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from serve_app.types import CHAT_PROMPTS

Form = Literal["none", "prefix", "task", "chat"]
"""What a prompt is to a model: nothing; the beginning of the caption; an instruction or a task's word; what a user says
in a chat, by the checkpoint's own template."""


@dataclass(frozen=True, slots=True)
class Family:
    """`prompts`: what a caption's variants ask unless a request or the settings say otherwise."""

    form: Form
    prompts: tuple[str, ...]
    longest: int = 448
    """Longest side in pixels of the pictures that it gets; its own processor makes of them what the model takes."""

    before: str = ""
    """Stands before every prompt."""

    @property
    def is_language_model(self) -> bool:
        """Whether it follows requests rather than writes one caption."""
        return self.form in ("task", "chat")

    @property
    def continues(self) -> bool:
        """Whether it can be asked for more than a caption says."""
        return self.form == "chat"


_UNASKED = ("",)
_BEGINNINGS = ("a photo of", "a picture of", "an image of")
CHAT = Family("chat", CHAT_PROMPTS, 768)
"""Every other model with a chat template."""

FAMILIES: Mapping[str, Family] = {
    "git": Family("prefix", _UNASKED),
    "vision-encoder-decoder": Family("none", _UNASKED),
    "blip-2": Family("prefix", _BEGINNINGS),
    "instructblip": Family("task", CHAT_PROMPTS),
    "florence2": Family("task", ("<MORE_DETAILED_CAPTION>", "<DETAILED_CAPTION>", "<CAPTION>"), 768),
    "paligemma": Family("task", ("describe en", "caption en"), before="<image>"),
}
"""Those that are not asked by a chat template. The prompts are the models' own, as their cards on the hub give them."""
