"""Beam search and beam sampling for many groups at once.

The rules are those of transformers' `GenerationMixin._beam_search`, step by step; the names `running`,
`finished` and `improvable` stand for its `running_beam_scores`, `beam_scores` and
`is_early_stop_heuristic_unsatisfied`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from serve_app.engine.parameters import SearchParameters
from serve_app.engine.search import Hypothesis, Step
from serve_app.engine.search_groups import SearchGroups

HOPELESS = -1e9
"""transformers' score of what must not be chosen; finite, so that it can be added to."""


class BeamSearch:
    """Beam search and beam sampling with `num_beams` beams."""

    def __init__(self, num_beams: int, vocabulary: int, end: int, device: torch.device) -> None:
        self._groups = SearchGroups(num_beams, vocabulary, end, device)
        self._beams = num_beams
        # Kept between steps: fresh pages for 30,000 scores a row cost more than the scores.
        self._scores = torch.empty(0, device=device)
        tensors = self._groups.tensors
        tensors.add("running", (num_beams,), torch.float32, HOPELESS)
        tensors.add("finished", (num_beams,), torch.float32, HOPELESS)
        tensors.add("is_finished", (num_beams,), torch.bool)
        tensors.add("finished_length", (num_beams,), torch.int64)
        tensors.add("finished_sequences", (num_beams, 1), torch.int64)
        tensors.add("improvable", (1,), torch.bool, True)

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> None:
        self._groups.tensors.widen("finished_sequences", parameters.max_length)
        slot = self._groups.open(prompt, parameters, seed)
        # Only the first beam counts at first, or all would say the same.
        self._groups.tensors["running"][slot, 0] = 0
        # What is returned should no beam ever finish.
        self._groups.tensors["finished_length"][slot] = len(prompt)
        self._groups.tensors["finished_sequences"][slot] = self._groups.tensors["sequences"][slot]

    def close(self, slot: int) -> None:
        self._groups.close(slot)

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._groups.newest()

    def advance(self, logits: torch.Tensor) -> Step:
        g, t, beams = self._groups, self._groups.tensors, self._beams
        if self._scores.numel() < logits.numel():
            self._scores = torch.empty_like(logits)
        scores = self._scores.flatten()[: logits.numel()].view_as(logits)
        values, tokens = g.candidates(torch.log_softmax(logits, -1, out=scores))
        totals = values + t["running"][..., None]  # [groups, beams, candidates]
        chosen, categories = self._choose(totals, tokens)  # [groups, 2 * beams]
        parents, token = categories // g.vocabulary, categories % g.vocabulary
        at_limit = [length + 1 >= p.max_length for length, p in zip(g.lengths, g.parameters, strict=True)]
        hits = (token == g.end) | g.bools(at_limit)

        open_scores = chosen + hits * HOPELESS
        best = open_scores.topk(beams).indices  # [groups, beams]
        next_parents, next_tokens = parents.gather(1, best), token.gather(1, best)
        self._finish(chosen, parents, token, hits)
        sequences = t["sequences"]
        sequences.copy_(sequences.gather(1, next_parents[..., None].expand_as(sequences)))
        g.write(sequences, next_tokens)
        t["running"].copy_(open_scores.gather(1, best))
        g.lengths = [length + 1 for length in g.lengths]
        return Step(next_parents, next_tokens, self._done(hits))

    def results(self, slot: int) -> list[Hypothesis]:
        t = self._groups.tensors
        count = self._groups.parameters[slot].num_return_sequences
        lengths, scores = t["finished_length"][slot].tolist(), t["finished"][slot].tolist()
        rows = t["finished_sequences"][slot].tolist()
        return [Hypothesis(rows[place][: lengths[place]], scores[place]) for place in range(count)]

    def _choose(self, totals: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Twice as many continuations as beams: enough where half of them end.

        Returns scores and categories (beam × vocabulary + token), [groups, 2 * beams] each.
        """
        g, wanted = self._groups, 2 * self._beams
        offsets = torch.arange(self._beams, device=g.device)[:, None] * g.vocabulary
        flat, categories = totals.flatten(1), (tokens + offsets).flatten(1)  # [groups, beams * candidates]
        sampled = [slot for slot, p in enumerate(g.parameters) if p.do_sample]
        if not sampled:
            places = flat.topk(wanted).indices
            return flat.gather(1, places), categories.gather(1, places)
        rows = torch.tensor(sampled, device=g.device)
        key = flat[rows].softmax(-1)
        key /= g.streams.exponentials([g.generators[s] for s in sampled], self._beams * g.vocabulary, categories[rows])
        order = flat.clone()
        order[rows] = key
        places = order.topk(wanted).indices
        scores, chosen = flat.gather(1, places), categories.gather(1, places)
        if g.device.type == "cpu":
            for slot in rows[(key > 0).sum(1) < wanted].tolist():
                scores[slot], chosen[slot] = self._with_impossible(order[slot], flat[slot], categories[slot])
        return scores, chosen

    def _with_impossible(
        self, key: torch.Tensor, scores: torch.Tensor, categories: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The choice where fewer continuations than wanted have a probability above zero.

        transformers then takes whatever `topk` finds among all the zeros, and so does this. All [2 * beams].
        """
        size = self._beams * self._groups.vocabulary
        chosen = torch.zeros(size).index_copy(0, categories, key).topk(2 * self._beams).indices
        return torch.full((size,), -torch.inf).index_copy(0, categories, scores)[chosen], chosen

    def _finish(self, chosen: torch.Tensor, parents: torch.Tensor, token: torch.Tensor, hits: torch.Tensor) -> None:
        """Keeps the best finished sequences; only the first `num_beams` choices may end one."""
        g, t, beams = self._groups, self._groups.tensors, self._beams
        ends = hits.clone()
        ends[:, beams:] = False
        if g.device.type == "cpu" and not ends.any():
            return
        pairs = list(zip(g.lengths, g.prompt_lengths, g.parameters, strict=True))
        norm = g.floats([(length + 1 - start) ** p.length_penalty for length, start, p in pairs])
        full = t["is_finished"].all(1, keepdim=True) & g.bools([p.early_stopping is True for p in g.parameters])
        scores = chosen / norm + full * HOPELESS + ~t["improvable"] * HOPELESS + ~ends * HOPELESS

        sequences = t["sequences"].gather(1, parents[..., None].expand(-1, -1, t["sequences"].shape[2]))
        g.write(sequences, token)
        kept = torch.cat((t["finished"], scores), 1).topk(beams)  # [groups, beams] of 3 * beams
        lengths = (g.length() + 1).expand_as(token)
        t["finished"].copy_(kept.values)
        t["is_finished"].copy_(torch.cat((t["is_finished"], ends), 1).gather(1, kept.indices))
        t["finished_length"].copy_(torch.cat((t["finished_length"], lengths), 1).gather(1, kept.indices))
        width = sequences.shape[2]
        both = torch.cat((t["finished_sequences"][..., :width], sequences), 1)
        t["finished_sequences"][..., :width] = both.gather(1, kept.indices[..., None].expand(-1, -1, width))

    def _done(self, hits: torch.Tensor) -> list[bool]:
        """Whether a group can gain nothing more, has all it may have, or is at its limit."""
        g, t = self._groups, self._groups.tensors
        best_norm = []
        for length, start, p in zip(g.lengths, g.prompt_lengths, g.parameters, strict=True):
            longest = p.max_length if p.early_stopping == "never" and p.length_penalty > 0 else length
            best_norm.append((longest - start) ** p.length_penalty)
        best = t["running"][:, :1] / g.floats(best_norm)
        worst = torch.where(t["is_finished"], t["finished"].min(1, keepdim=True).values, HOPELESS)
        t["improvable"].bitwise_and_((best > worst).any(1, keepdim=True))
        early = g.bools([p.early_stopping is True for p in g.parameters])
        ended = ~t["improvable"] | (t["is_finished"].all(1, keepdim=True) & early) | hits.all(1, keepdim=True)
        done: list[bool] = ended[:, 0].tolist()
        return done
