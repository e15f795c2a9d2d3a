"""How every row goes on: greedy search, sampling, beam search and beam sampling for all blocks at once.

The rules are those of transformers' `GenerationMixin._sample` and `_beam_search`, step by step; the names
`running`, `finished` and `improvable` stand for its `running_beam_scores`, `beam_scores` and
`is_early_stop_heuristic_unsatisfied`.
Nothing here depends on values on the host but the shape, so that it can be part of a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from serve_app.engine import processors
from serve_app.engine.batch import Batch, Shape
from serve_app.engine.state import HOPELESS

Noise = Callable[[torch.Tensor], torch.Tensor]
"""Exponential numbers for token ids [blocks, rows, n], of the same shape."""


@dataclass(frozen=True, slots=True)
class _Choice:
    """What was chosen, sorted best first. All [blocks, 2 * rows]; `parents` are rows of the block."""

    scores: torch.Tensor
    parents: torch.Tensor
    tokens: torch.Tensor


class Search:
    """Chooses the next token of every row that is past its prompt."""

    def __init__(self, batch: Batch, end: int) -> None:
        """`end`: id of the token that ends a text."""
        self._batch, self._end = batch, end
        self._exact = batch.device.place.type == "cpu"
        """Whether even choices among zero probabilities are transformers', which takes a look at the numbers."""
        self._numbers = torch.arange(2 * batch.rows, device=batch.device.place)
        # On a CPU kept between steps: fresh pages for 30,000 scores a row cost more than the scores.
        self._scores = torch.empty(0)

    def __call__(self, shape: Shape, logits: torch.Tensor, goes_on: torch.Tensor, noise: Noise) -> torch.Tensor:
        """Chooses from float32 logits [blocks * rows, vocabulary], which it may overwrite.

        `goes_on` [blocks, rows]: rows that take a token. Returns which row each goes on from, [blocks, rows].
        """
        values, tokens = self._candidates(shape, logits)
        state, rows = self._batch.state.view(shape.blocks), self._batch.rows
        before = self._batch.state.saved(shape.blocks)
        beam = state["beams"][:, :1] > 0  # [blocks, 1]
        totals = values + state["running"][..., None]  # without beams that is 0
        order = self._order(shape, values, totals, tokens, beam, noise)  # [blocks, rows, candidates]

        parents = self._numbers[:rows].expand(shape.blocks, rows)
        if shape.needs.beams:
            ahead, token = self._advance(shape, self._choose(totals, tokens, order), beam, goes_on)
            parents = torch.where(beam & goes_on, ahead, parents)
        if shape.needs.tokens:
            best = tokens.gather(2, order.argmax(-1, keepdim=True))[..., 0]
            token = torch.where(beam, token, best) if shape.needs.beams else best
        self._append(shape, parents, token, goes_on)
        if shape.needs.tokens:
            self._end_rows(shape, token, beam)
        self._batch.state.restore(before, goes_on)
        return parents

    def _candidates(self, shape: Shape, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids of the tokens worth a look, [blocks, rows, candidates] each."""
        batch, needs = self._batch, shape.needs
        scores = logits
        if needs.beams:
            out = self._kept(logits) if self._exact else None
            scores = torch.log_softmax(logits, -1, out=out)
            if needs.tokens:  # without beams transformers works on the logits as they are
                plain = (batch.state.view(shape.blocks)["beams"] == 0).reshape(-1, 1)
                scores = torch.where(plain, logits, scores)
        rules = batch.state.rules(shape.blocks)
        width = min(needs.max_length, batch.state.positions)
        sequences = batch.state.sequences[: shape.blocks, :, :width].flatten(0, 1)
        values, tokens = processors.candidates(
            processors.process(scores, sequences, rules, needs, self._end), rules, needs
        )
        size = (shape.blocks, batch.rows, needs.candidates)
        return values.view(size), tokens.view(size)

    def _kept(self, logits: torch.Tensor) -> torch.Tensor:
        if self._scores.numel() < logits.numel():
            self._scores = torch.empty_like(logits)
        return self._scores.flatten()[: logits.numel()].view_as(logits)

    def _order(
        self,
        shape: Shape,
        values: torch.Tensor,
        totals: torch.Tensor,
        tokens: torch.Tensor,
        beam: torch.Tensor,
        noise: Noise,
    ) -> torch.Tensor:
        """By what the candidates are ranked: their scores, or p / e if a group samples (see `sampling`)."""
        if not shape.needs.sample:
            return totals
        state = self._batch.state.view(shape.blocks)
        if shape.needs.beams:
            chances = totals.flatten(1).softmax(-1).view_as(totals)
            if shape.needs.tokens:
                chances = torch.where(beam[..., None], chances, values.softmax(-1))
        else:
            chances = values.softmax(-1)
        ranked = torch.where(state["sample"][..., None] > 0, chances.div_(noise(tokens)), totals)
        # Rows without a beam come behind those of which nothing has a chance.
        return ranked.masked_fill_((state["running"] == -torch.inf)[..., None], -torch.inf)

    def _choose(self, totals: torch.Tensor, tokens: torch.Tensor, order: torch.Tensor) -> _Choice:
        """Twice as many continuations as rows: enough if half of them end."""
        rows, vocabulary = self._batch.rows, self._batch.state.vocabulary
        width = totals.shape[2]
        places = order.flatten(1).topk(min(2 * rows, rows * width)).indices
        scores, parents = totals.flatten(1).gather(1, places), places // width
        token = tokens.flatten(1).gather(1, places)
        if self._exact:
            state = self._batch.state.view(len(totals))
            wanted = 2 * state["beams"][:, 0]
            short = (order.flatten(1) > 0).sum(1) < wanted
            for block in (short & (state["sample"][:, 0] > 0)).nonzero()[:, 0].tolist():
                beams = int(wanted[block]) // 2
                found = _with_impossible(order[block, :beams], totals[block, :beams], tokens[block, :beams], vocabulary)
                scores[block, : 2 * beams] = found[0]
                parents[block, : 2 * beams], token[block, : 2 * beams] = found[1] // vocabulary, found[1] % vocabulary
        return _Choice(scores, parents, token)

    def _advance(
        self, shape: Shape, choice: _Choice, beam: torch.Tensor, goes_on: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ends what ends, and takes the best continuations that don't: (parents, tokens) [blocks, rows]."""
        state, rows = self._batch.state.view(shape.blocks), self._batch.rows
        beams, length = state["beams"][:, :1], state["length"][:, :1]
        moves = beam & goes_on[:, :1]
        rank = self._numbers[: choice.scores.shape[1]]
        real = rank < 2 * beams
        hits = (choice.tokens == self._end) | (length + 1 >= state["max_length"][:, :1])
        open_scores = torch.where(real, torch.add(choice.scores, hits, alpha=HOPELESS), -torch.inf)
        best = open_scores.topk(rows).indices  # [blocks, rows]
        parents, tokens = choice.parents.gather(1, best), choice.tokens.gather(1, best)
        if not self._exact or bool((hits & (rank < beams) & moves).any()):
            self._finish(shape, choice, hits & (rank < beams), real, moves)
        torch.where(beam, open_scores.gather(1, best), state["running"], out=state["running"])
        self._judge(shape, (hits | ~real).all(1, keepdim=True), rank[:rows] < beams)
        return parents, tokens

    def _finish(
        self, shape: Shape, choice: _Choice, ends: torch.Tensor, real: torch.Tensor, moves: torch.Tensor
    ) -> None:
        """Keeps the best finished sequences; only the first `beams` choices may end one. Before anything moves on."""
        batch, state, rows = self._batch, self._batch.state.view(shape.blocks), self._batch.rows
        blocks = slice(shape.blocks)
        length, width = state["length"][:, :1], min(shape.needs.max_length, self._batch.state.positions)
        norm = (length + 1 - state["prompt"][:, :1]).double() ** state["length_penalty"][:, :1]
        full = (state["is_finished"] > 0).all(1, keepdim=True) & (state["early"][:, :1] > 0)
        closed = torch.add(full, 1 - state["improvable"][:, :1])
        scores = torch.add(choice.scores / norm.float(), closed, alpha=HOPELESS)
        scores = torch.where(real, torch.add(scores, ~ends, alpha=HOPELESS), -torch.inf)
        kept = torch.cat((state["finished"], scores), 1).topk(rows)  # [blocks, rows] of 3 * rows
        state["finished"].copy_(kept.values)
        both = torch.cat((state["is_finished"], ends.long()), 1)
        torch.gather(both, 1, kept.indices, out=state["is_finished"])
        both = torch.cat((state["finished_length"], (length + 1).expand_as(choice.tokens)), 1)
        torch.gather(both, 1, kept.indices, out=state["finished_length"])

        ids = batch.state.sequences[blocks, :, :width].gather(1, choice.parents[..., None].expand(-1, -1, width))
        at = length.clamp_max(width - 1)[..., None].expand(*choice.tokens.shape, 1)
        ids = ids.scatter(2, at, choice.tokens[..., None])
        old = batch.state.finished_sequences[blocks, :, :width]
        new = torch.cat((old, ids), 1).gather(1, kept.indices[..., None].expand(-1, -1, width))
        torch.where(moves[..., None], new, old, out=old)

    def _judge(self, shape: Shape, all_end: torch.Tensor, mine: torch.Tensor) -> None:
        """Ends groups that can gain nothing more, have all they may have, or are at their limit."""
        state = self._batch.state.view(shape.blocks)
        length, start = state["length"][:, :1], state["prompt"][:, :1]
        penalty = state["length_penalty"][:, :1]
        never = (state["never"][:, :1] > 0) & (penalty > 0)
        longest = torch.where(never, state["max_length"][:, :1], length + 1)
        best = state["running"][:, :1] / ((longest - start).double() ** penalty).float()
        finished, is_finished = state["finished"], state["is_finished"] > 0
        worst = torch.where(mine, finished, torch.inf).min(1, keepdim=True).values
        worst = torch.where(is_finished, worst, HOPELESS)
        hope = (state["improvable"][:, :1] > 0) & ((best > worst) & mine).any(1, keepdim=True)
        early = is_finished.all(1, keepdim=True) & (state["early"][:, :1] > 0)
        state["improvable"].copy_(hope)
        state["ended"].copy_(~hope | early | all_end)

    def _append(self, shape: Shape, parents: torch.Tensor, tokens: torch.Tensor, goes_on: torch.Tensor) -> None:
        """Every row goes on from its parent, by its token."""
        batch, blocks = self._batch, slice(shape.blocks)
        width = min(shape.needs.max_length, batch.state.positions)
        sequences, length = batch.state.sequences[blocks, :, :width], batch.state.view(shape.blocks)["length"]
        at = length.clamp_max(width - 1)[..., None]
        if shape.needs.beams:
            sequences.copy_(sequences.gather(1, parents[..., None].expand_as(sequences)))
        sequences.scatter_(2, at, torch.where(goes_on[..., None], tokens[..., None], sequences.gather(2, at)))
        length.add_(1)

    def _end_rows(self, shape: Shape, tokens: torch.Tensor, beam: torch.Tensor) -> None:
        state = self._batch.state.view(shape.blocks)
        ends = (tokens == self._end) | (state["length"] >= state["max_length"])
        torch.where(beam, state["ended"], ends, out=state["ended"])


def _with_impossible(
    order: torch.Tensor, scores: torch.Tensor, tokens: torch.Tensor, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The choice if fewer continuations than wanted have a probability above zero.

    transformers then takes whatever `topk` finds among all the zeros, and so does this. All [beams, candidates];
    returns scores and categories (beam × vocabulary + token), [2 * beams] each.
    """
    beams = len(tokens)
    categories = (tokens + torch.arange(beams, device=tokens.device)[:, None] * vocabulary).flatten()
    size = beams * vocabulary
    chosen = torch.zeros(size).index_copy(0, categories, order.flatten()).topk(2 * beams).indices
    return torch.full((size,), -torch.inf).index_copy(0, categories, scores.flatten())[chosen], chosen
