"""Choosing the next tokens: beam search, beam sampling, greedy and sampling, for many groups at once.

The rules are those of transformers' `GenerationMixin` (`_beam_search`, `_sample`), step by step; the
names `running`, `finished` and `improvable` stand for its `running_beam_scores`, `beam_scores` and
`is_early_stop_heuristic_unsatisfied`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from serve_app.engine.parameters import SearchParameters
from serve_app.engine.processors import RowRules
from serve_app.engine.sampling import Streams
from serve_app.engine.slots import SlotTensors

HOPELESS = -1e9
"""transformers' score of what must not be chosen; finite, so that it can be added to."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished sequence: prompt and answer as token ids, and its beam score (None without beams)."""

    ids: list[int]
    score: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """What one step chose. parents and tokens [groups, rows]; `parents` are rows within the group."""

    parents: torch.Tensor | None
    """None where every row goes on by itself."""
    tokens: torch.Tensor
    done: list[bool]


class Search(Protocol):
    """The groups of one lane: as many rows each, in dense slots."""

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> None:
        """Adds a group in the next slot."""
        ...

    def close(self, slot: int) -> None:
        """Removes a group; the last one takes its slot."""
        ...

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The last token of each row and its position, [groups, rows] each."""
        ...

    def advance(self, logits: torch.Tensor) -> Step:
        """Chooses from float32 logits [groups * rows, vocabulary], which it may overwrite."""
        ...

    def results(self, slot: int) -> list[Hypothesis]:
        """The sequences of a group that is done, best first."""
        ...


class _Groups:
    """What both kinds of search keep for each group."""

    def __init__(self, rows: int, vocabulary: int, end: int, device: torch.device) -> None:
        self.rows, self.vocabulary, self.end, self.device = rows, vocabulary, end, device
        self.streams = Streams(device)
        self.parameters: list[SearchParameters] = []
        self.generators: list[torch.Generator] = []
        self.prompt_lengths: list[int] = []
        self.lengths: list[int] = []
        self.tensors = SlotTensors(device)
        self.tensors.add("sequences", (rows, 1), torch.int64)
        self._rules: RowRules | None = None

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> int:
        self.parameters.append(parameters)
        self.generators.append(self.streams.generator(seed))
        self.prompt_lengths.append(len(prompt))
        self.lengths.append(len(prompt))
        self.tensors.widen("sequences", parameters.max_length)
        slot = self.tensors.open()
        # The start token behind the end of a row is what the penalties expect there.
        self.tensors["sequences"][slot] = prompt[0]
        self.tensors["sequences"][slot, :, : len(prompt)] = torch.tensor(prompt, device=self.device)
        self._rules = None
        return slot

    def close(self, slot: int) -> None:
        self.tensors.close(slot)
        lists: tuple[list[Any], ...] = (self.parameters, self.generators, self.prompt_lengths, self.lengths)
        for values in lists:
            last = values.pop()
            if slot < len(values):
                values[slot] = last
        self._rules = None

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        at = (self.length() - 1).expand(-1, self.rows)
        return self.tensors["sequences"].gather(2, at[..., None])[..., 0], at

    def candidates(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and ids of the tokens worth a look, [groups, rows, n] each."""
        if self._rules is None:
            self._rules = RowRules(self.parameters, self.rows, self.vocabulary, self.end, self.device)
        # Wider than any row, so that n-grams and penalties see all of it.
        sequences = self.tensors["sequences"][..., : max(self.lengths)].flatten(0, 1)
        lengths = self.length()[:, 0].repeat_interleave(self.rows)
        values, tokens = self._rules.candidates(self._rules.process(scores, sequences, lengths))
        shape = (self.tensors.count, self.rows, -1)
        return values.view(shape), tokens.view(shape)

    def write(self, sequences: torch.Tensor, tokens: torch.Tensor) -> None:
        """Appends `tokens` [groups, rows] at each group's length to `sequences` [groups, rows, positions]."""
        at = self.length()[..., None].expand(*tokens.shape, 1)
        sequences.scatter_(2, at, tokens[..., None])

    def floats(self, values: Sequence[float]) -> torch.Tensor:
        """[groups, 1] float32."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None]

    def length(self) -> torch.Tensor:
        """[groups, 1] tokens of each row so far."""
        return torch.tensor(self.lengths, device=self.device)[:, None]

    def bools(self, values: Sequence[bool]) -> torch.Tensor:
        """[groups, 1]."""
        return torch.tensor(values, device=self.device)[:, None]


class BeamSearch:
    """Beam search and beam sampling with `num_beams` beams."""

    def __init__(self, num_beams: int, vocabulary: int, end: int, device: torch.device) -> None:
        self._groups = _Groups(num_beams, vocabulary, end, device)
        self._beams = num_beams
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

    def close(self, slot: int) -> None:
        self._groups.close(slot)

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._groups.newest()

    def advance(self, logits: torch.Tensor) -> Step:
        g, t, beams = self._groups, self._groups.tensors, self._beams
        values, tokens = g.candidates(logits.log_softmax(-1))
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
        t["improvable"].logical_and_((best > worst).any(1, keepdim=True))
        early = g.bools([p.early_stopping is True for p in g.parameters])
        ended = ~t["improvable"] | (t["is_finished"].all(1, keepdim=True) & early) | hits.all(1, keepdim=True)
        done: list[bool] = ended[:, 0].tolist()
        return done


class TokenSearch:
    """Greedy search and plain sampling; `rows` independent sequences of each group."""

    def __init__(self, rows: int, vocabulary: int, end: int, device: torch.device) -> None:
        self._groups = _Groups(rows, vocabulary, end, device)
        self._groups.tensors.add("ended", (rows,), torch.bool)
        self._groups.tensors.add("ended_length", (rows,), torch.int64)

    def open(self, prompt: Sequence[int], parameters: SearchParameters, seed: int) -> None:
        self._groups.open(prompt, parameters, seed)

    def close(self, slot: int) -> None:
        self._groups.close(slot)

    def newest(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._groups.newest()

    def advance(self, logits: torch.Tensor) -> Step:
        g, t = self._groups, self._groups.tensors
        values, tokens = g.candidates(logits)
        places = values.argmax(-1)  # [groups, rows]
        sampled = [slot for slot, p in enumerate(g.parameters) if p.do_sample]
        if sampled:
            rows = torch.tensor(sampled, device=g.device)
            places[rows] = self._draw(values[rows], tokens[rows], [g.generators[slot] for slot in sampled])
        token = tokens.gather(2, places[..., None])[..., 0]

        g.write(t["sequences"], token)
        g.lengths = [length + 1 for length in g.lengths]
        at_limit = [length >= p.max_length for length, p in zip(g.lengths, g.parameters, strict=True)]
        ends = ((token == g.end) | g.bools(at_limit)) & ~t["ended"]
        lengths = g.length().expand_as(token)
        t["ended_length"].copy_(torch.where(ends, lengths, t["ended_length"]))
        t["ended"].logical_or_(ends)
        done: list[bool] = t["ended"].all(1).tolist()
        return Step(None, token, done)

    def results(self, slot: int) -> list[Hypothesis]:
        t = self._groups.tensors
        rows, lengths = t["sequences"][slot].tolist(), t["ended_length"][slot].tolist()
        return [Hypothesis(row[:length], None) for row, length in zip(rows, lengths, strict=True)]

    def _draw(self, values: torch.Tensor, tokens: torch.Tensor, generators: list[torch.Generator]) -> torch.Tensor:
        """One token for each row; the rows of a group share its stream. [groups, rows] places."""
        g = self._groups
        offsets = torch.arange(g.rows, device=g.device)[:, None] * g.vocabulary
        numbers = g.streams.exponentials(generators, g.rows * g.vocabulary, (tokens + offsets).flatten(1))
        return (values.softmax(-1) / numbers.view_as(values)).argmax(-1)
