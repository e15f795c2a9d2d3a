"""transformers' logits processors for rows of unlike parameters, in its order and with its results.

Everything works on [rows, vocabulary] in place; what is the same for all steps of a batch is
prepared once, in `RowRules`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from serve_app.engine.parameters import SearchParameters

_SPARE = 8
"""Candidates beyond the largest top_k, so that equal scores at its edge all stay, as transformers has it."""


class RowRules:
    """The processors of a batch, for groups that take the same number of rows each."""

    def __init__(
        self, groups: Sequence[SearchParameters], rows: int, vocabulary: int, end: int, device: torch.device
    ) -> None:
        """`rows` of each group; `end` is the id of the token that ends a text."""

        def column(values: list[float]) -> torch.Tensor:
            return torch.tensor(values, device=device).repeat_interleave(rows)[:, None]  # [groups * rows, 1]

        def places(chosen: list[int]) -> torch.Tensor | None:
            """Rows of the chosen groups; None for all rows."""
            if len(chosen) == len(groups):
                return None
            return torch.tensor([g * rows + r for g in chosen for r in range(rows)], device=device)

        self._end = end
        self._min_length: torch.Tensor | None = None
        if any(p.min_length > 0 for p in groups):
            self._min_length = column([p.min_length for p in groups])[:, 0]
        self._penalty: torch.Tensor | None = None
        if any(p.repetition_penalty != 1 for p in groups):
            self._penalty = column([p.repetition_penalty for p in groups])
        self._ngrams = [
            (size, places([g for g, p in enumerate(groups) if p.no_repeat_ngram_size == size]))
            for size in sorted({p.no_repeat_ngram_size for p in groups} - {0})
        ]
        self._temperature: torch.Tensor | None = None
        if any(p.do_sample and p.temperature != 1 for p in groups):
            self._temperature = column([p.temperature if p.do_sample else 1.0 for p in groups])

        # Beams need a second token beside the end to go on with.
        keep = [2.0 if p.num_beams > 1 else 1.0 for p in groups]
        top_k = [
            min(max(p.top_k, int(least)), vocabulary) if p.do_sample and p.top_k else vocabulary
            for p, least in zip(groups, keep, strict=True)
        ]
        wanted = [
            min(k + _SPARE, vocabulary) if p.do_sample else min(2 * p.num_beams, vocabulary)
            for p, k in zip(groups, top_k, strict=True)
        ]
        self._width = max(wanted)
        self._edge: torch.Tensor | None = None
        if any(p.do_sample and k < vocabulary for p, k in zip(groups, top_k, strict=True)):
            edges = [k if p.do_sample else self._width for p, k in zip(groups, top_k, strict=True)]
            self._edge = column([min(k, self._width) - 1 for k in edges]).long()
        self._tail: torch.Tensor | None = None
        if any(p.do_sample and p.top_p < 1 for p in groups):
            # -1 drops nothing: no cumulated probability is that small.
            self._tail = column([1 - p.top_p if p.do_sample and p.top_p < 1 else -1.0 for p in groups])
            self._kept = torch.arange(self._width, device=device) < column(keep)  # [rows, width]

    def process(self, scores: torch.Tensor, sequences: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Penalties, bans and temperature, in place.

        scores float32 [rows, vocabulary]; sequences [rows, positions], filled with the start token
        behind the row's length; lengths [rows].
        """
        if self._penalty is not None:
            said = scores.gather(1, sequences)
            scores.scatter_(1, sequences, torch.where(said < 0, said * self._penalty, said / self._penalty))
        for size, places in self._ngrams:
            _ban_repeats(scores, sequences, lengths, size, places)
        if self._min_length is not None:
            scores[:, self._end].masked_fill_(lengths < self._min_length, -torch.inf)
        if self._temperature is not None:
            scores.div_(self._temperature)
        return scores

    def candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that top_k and top_p leave, best first.

        Returns scores, -inf for what is left out, and token ids, both [rows, width].
        """
        values, tokens = scores.topk(self._width)
        if self._edge is not None:
            values = values.masked_fill(values < values.gather(1, self._edge), -torch.inf)
        if self._tail is not None:
            below = values.flip(1).softmax(1).cumsum(1).flip(1)  # probability of a token and of all less likely ones
            values = values.masked_fill((below <= self._tail) & ~self._kept, -torch.inf)
        return values, tokens


def _ban_repeats(
    scores: torch.Tensor, sequences: torch.Tensor, lengths: torch.Tensor, size: int, places: torch.Tensor | None
) -> None:
    """Sets the tokens to -inf that would complete an n-gram of `size` tokens for the second time."""
    if places is not None:
        sequences, lengths = sequences[places], lengths[places]
    windows = sequences.shape[1] - size + 1
    if windows <= 0:
        return
    start = (lengths - size + 1).clamp_min(0)[:, None]  # [rows, 1]: first token of the running n-gram
    ends = torch.arange(size, size + windows, device=scores.device)
    repeated = (ends <= lengths[:, None]).clone()  # [rows, windows]: the n-gram is complete
    for offset in range(size - 1):
        repeated &= sequences[:, offset : offset + windows] == sequences.gather(1, start + offset)
    banned = torch.where(repeated, -torch.inf, torch.inf).to(scores.dtype)
    last = sequences[:, size - 1 :]
    if places is None:
        scores.scatter_reduce_(1, last, banned, "amin")
    else:
        scores[places] = scores[places].scatter_reduce(1, last, banned, "amin")
