"""transformers' logits processors for rows of unlike parameters, in its order and with its results.

The parameters of each row lie on the device (`RowState`); what the host knows of them all, `Needs`, says which
processors have work at all and how wide their tensors have to be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch.nn import functional as F

from serve_app.engine.parameters import SearchParameters

_SPARE = 8
"""Candidates beyond the largest top_k, so that equal scores at its edge all stay, as transformers has it."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the parameters of all running groups together ask for."""

    candidates: int = 1
    """Tokens of each row that are worth a look."""
    max_length: int = 1
    """Of the longest group, prompt included."""
    ngram: int = 0
    penalty: bool = False
    min_length: bool = False
    temperature: bool = False
    top_k: bool = False
    top_p: bool = False
    sample: bool = False
    beams: bool = False
    tokens: bool = False
    """Whether there are groups without beams."""

    @classmethod
    def of(cls, groups: Iterable[SearchParameters], vocabulary: int) -> Self:
        found = cls()
        for p in groups:
            found = cls(
                max(found.candidates, candidates_of(p, vocabulary)),
                max(found.max_length, p.max_length),
                max(found.ngram, p.no_repeat_ngram_size),
                found.penalty or p.repetition_penalty != 1,
                found.min_length or p.min_length > 0,
                found.temperature or (p.do_sample and p.temperature != 1),
                found.top_k or (p.do_sample and top_k_of(p, vocabulary) < vocabulary),
                found.top_p or (p.do_sample and p.top_p < 1),
                found.sample or p.do_sample,
                found.beams or p.num_beams > 1,
                found.tokens or p.num_beams == 1,
            )
        return found

    def padded(self, vocabulary: int, positions: int) -> Self:
        """Needs that these are part of, of which there are few: each has its own graph on a GPU."""
        return replace(
            self,
            candidates=min(power_of_two(self.candidates, 64), vocabulary),
            max_length=min(power_of_two(self.max_length, 256), positions),
            ngram=power_of_two(self.ngram, 4),
            **dict.fromkeys(
                ("penalty", "min_length", "temperature", "top_k", "top_p", "sample", "beams", "tokens"), True
            ),
        )


def power_of_two(size: int, least: int = 1) -> int:
    """The power of two that `size` is padded to."""
    return max(least, 1 << (size - 1).bit_length())


def top_k_of(p: SearchParameters, vocabulary: int) -> int:
    """Tokens that top_k leaves; beams need a second token beside the end to go on with."""
    return min(max(p.top_k, least_kept(p)), vocabulary) if p.do_sample and p.top_k else vocabulary


def least_kept(p: SearchParameters) -> int:
    return 2 if p.num_beams > 1 else 1


def candidates_of(p: SearchParameters, vocabulary: int) -> int:
    return min(top_k_of(p, vocabulary) + _SPARE if p.do_sample else 2 * p.num_beams, vocabulary)


@dataclass(frozen=True, slots=True)
class RowRules:
    """The processors' parameters of each row, all [rows, 1]; integers are int64, the others float32."""

    length: torch.Tensor
    """Tokens of the row so far."""
    min_length: torch.Tensor
    ngram: torch.Tensor
    penalty: torch.Tensor
    temperature: torch.Tensor
    edge: torch.Tensor
    """Place of the last token that top_k keeps for sure."""
    tail: torch.Tensor
    """Probability of the least likely tokens that top_p drops; -1 drops nothing."""
    keep: torch.Tensor
    """Tokens that top_p keeps whatever their probability."""


def process(scores: torch.Tensor, sequences: torch.Tensor, rules: RowRules, needs: Needs, end: int) -> torch.Tensor:
    """Penalties, bans and temperature, in place.

    scores float32 [rows, vocabulary]; sequences [rows, positions], filled with the start token behind the row's
    length; `end` is the id of the token that ends a text.
    """
    if needs.penalty:
        said = scores.gather(1, sequences)
        scores.scatter_(1, sequences, torch.where(said < 0, said * rules.penalty, said / rules.penalty))
    if needs.ngram:
        _ban_repeats(scores, sequences, rules, needs.ngram)
    if needs.min_length:
        ends = scores[:, end : end + 1]
        ends.copy_(torch.where(rules.length < rules.min_length, -torch.inf, ends))
    if needs.temperature:
        scores.div_(rules.temperature)
    return scores


def candidates(scores: torch.Tensor, rules: RowRules, needs: Needs) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens that top_k and top_p leave, best first.

    Returns scores, -inf for what is left out, and token ids, both [rows, candidates].
    """
    values, tokens = scores.topk(needs.candidates)
    if needs.top_k:
        values = torch.where(values < values.gather(1, rules.edge), -torch.inf, values)
    if needs.top_p:
        below = values.flip(1).softmax(1).cumsum(1).flip(1)  # probability of a token and of all less likely ones
        places = torch.arange(needs.candidates, device=scores.device)
        values = torch.where((below <= rules.tail) & (places >= rules.keep), -torch.inf, values)
    return values, tokens


def _ban_repeats(scores: torch.Tensor, sequences: torch.Tensor, rules: RowRules, largest: int) -> None:
    """Sets the tokens to -inf that would complete an n-gram of the row's `ngram` tokens for the second time."""
    width = sequences.shape[1]
    last = torch.arange(-1, width - 1, device=scores.device) + rules.ngram  # [rows, positions], of each n-gram
    repeated = (last < rules.length) & (rules.ngram > 0)  # the n-gram is complete
    if largest > 1:
        padded = F.pad(sequences, (0, largest))
        offsets = torch.arange(largest - 1, device=scores.device)
        start = (rules.length - rules.ngram + 1).clamp_min_(0)  # [rows, 1]: first token of the running n-gram
        running = padded.gather(1, start + offsets)  # [rows, largest - 1]
        same = padded.unfold(1, largest - 1, 1)[:, :width] == running[:, None]  # [rows, positions, largest - 1]
        repeated &= (same | (offsets >= rules.ngram - 1)[:, None]).all(2)
    banned = torch.where(repeated, -torch.inf, torch.inf).to(scores.dtype)
    scores.scatter_reduce_(1, sequences.gather(1, last.clamp_(0, width - 1)), banned, "amin")
