"""Prompts to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from serve_app.engine import blip
from serve_app.engine.loading import Loaded
from serve_app.types import Generated


class PromptCodec:
    """BLIP's convention: the decoder's start token, then the prompt; what follows is the answer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        """`start`: the id that begins a text."""
        self._tokenizer, self._start = tokenizer, start

    @classmethod
    def of(cls, loaded: Loaded) -> PromptCodec:
        return cls(loaded.tokenizer, blip.start_token(loaded.model.config))

    def encode(self, prompt: str) -> list[int]:
        """Ids of the start token and the prompt. What looks like a control token in the prompt is plain text."""
        ids = self._tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [self._start, *ids]

    def generated(self, prompt: Sequence[int], ids: Sequence[int], score: float | None) -> Generated:
        """Decodes `ids`, the prompt and its answer."""
        return Generated(
            text=self._decode(ids),
            prompt=self._decode(prompt),
            log_probability=score,
            tokens=max(0, len(ids) - len(prompt)),
        )

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
