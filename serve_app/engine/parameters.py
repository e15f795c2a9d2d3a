"""Generation parameters with every default filled in, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from transformers import GenerationConfig

from serve_app.errors import InvalidOption, PromptTooLong
from serve_app.types import GenerationParameters


@dataclass(frozen=True, slots=True)
class SearchParameters:
    """What one group is to do; names and meaning as in `GenerationConfig`. Lengths count the prompt."""

    max_length: int
    min_length: int
    num_beams: int
    num_return_sequences: int
    do_sample: bool
    temperature: float
    top_k: int
    """0 keeps the whole vocabulary."""
    top_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    length_penalty: float
    early_stopping: bool | Literal["never"]

    @property
    def rows(self) -> int:
        """Rows that the group takes in a decode batch."""
        return max(self.num_beams, self.num_return_sequences)


def fit(parameters: GenerationParameters, prompt_tokens: int, limit: int) -> dict[str, int]:
    """The length arguments that keep prompt and answer within `limit` positions.

    Raises `PromptTooLong` when the prompt leaves no position for a token.
    """
    if prompt_tokens >= limit:
        raise PromptTooLong(f"The prompt has {prompt_tokens} tokens and at most {limit - 1} leave room for an answer.")
    if parameters.max_new_tokens is not None:
        return {"max_new_tokens": min(parameters.max_new_tokens, limit - prompt_tokens)}
    return {"max_length": limit}


def limit(parameters: GenerationParameters, default: int | None, positions: int) -> int:
    """Positions that prompt and answer may fill together; `max_new_tokens` overrules `max_length`.

    `default` is the checkpoint's own `max_length`; transformers' is 20.
    """
    if parameters.max_new_tokens is not None:
        return positions
    return min(parameters.max_length or default or 20, positions)


def given(parameters: GenerationParameters) -> dict[str, Any]:
    """The parameters that are set."""
    values = {entry.name: getattr(parameters, entry.name) for entry in fields(parameters)}
    return {name: value for name, value in values.items() if value is not None}


_UNSUPPORTED = (
    "max_new_tokens", "min_new_tokens", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h",
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "bad_words_ids", "renormalize_logits",
    "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "sequence_bias", "guidance_scale", "watermarking_config",
    "num_beam_groups", "diversity_penalty", "penalty_alpha", "stop_strings",
)  # fmt: skip
"""Names of `GenerationConfig` that change what is generated and that the engine does not know."""


def unsupported(defaults: GenerationConfig) -> str:
    """Those of a checkpoint's own settings that the engine ignores, with their values; empty if there are none."""
    given = defaults.to_diff_dict()
    return ", ".join(f"{name}={given[name]!r}" for name in _UNSUPPORTED if given.get(name) is not None)


def resolve(
    parameters: GenerationParameters, defaults: GenerationConfig, max_length: int, prompt_tokens: int
) -> SearchParameters:
    """Fills what is not given from the checkpoint's `defaults`, and then from transformers'.

    `max_length` is what `limit` says. Raises `PromptTooLong` and `InvalidOption`.
    """
    if parameters.max_new_tokens is not None and parameters.max_new_tokens < 1:
        raise InvalidOption(f"max_new_tokens must be at least 1, not {parameters.max_new_tokens}.")
    if parameters.max_length is not None and parameters.max_length < 1:
        raise InvalidOption(f"max_length must be at least 1, not {parameters.max_length}.")
    lengths = fit(parameters, prompt_tokens, max_length)
    values: dict[str, Any] = dict(GenerationConfig._get_default_generation_params())
    for name in values:
        if getattr(defaults, name, None) is not None:
            values[name] = getattr(defaults, name)
    values |= given(parameters)
    values["max_length"] = lengths.get("max_length") or prompt_tokens + lengths["max_new_tokens"]
    if parameters.min_new_tokens is not None:
        values["min_length"] = prompt_tokens + parameters.min_new_tokens
    names = [entry.name for entry in fields(SearchParameters)]
    resolved = SearchParameters(**{name: values[name] for name in names})
    _check(resolved)
    return resolved


def _check(p: SearchParameters) -> None:
    problems = {
        f"num_beams must be at least 1, not {p.num_beams}": p.num_beams < 1,
        f"num_return_sequences must be at least 1, not {p.num_return_sequences}": p.num_return_sequences < 1,
        f"num_return_sequences ({p.num_return_sequences}) must not be above num_beams ({p.num_beams}) "
        "unless it samples without beams": p.num_return_sequences > p.num_beams
        and not (p.do_sample and p.num_beams == 1),
        f"temperature must be above 0, not {p.temperature}": p.do_sample and not p.temperature > 0,
        f"top_k must not be negative, and is {p.top_k}": p.top_k < 0,
        f"top_p must be between 0 and 1, not {p.top_p}": not 0 <= p.top_p <= 1,
        f"repetition_penalty must be above 0, not {p.repetition_penalty}": not p.repetition_penalty > 0,
        f"length_penalty must be between -20 and 20, not {p.length_penalty}": not -20 <= p.length_penalty <= 20,
        f"no_repeat_ngram_size must not be negative, and is {p.no_repeat_ngram_size}": p.no_repeat_ngram_size < 0,
        f"early_stopping must be true, false or 'never', not {p.early_stopping!r}": p.early_stopping
        not in (True, False, "never"),
    }
    for sentence, wrong in problems.items():
        if wrong:
            raise InvalidOption(f"{sentence}.")
