"""What a step reads and writes of every row, on the device."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import torch

from serve_app.engine.device import Device, Reading
from serve_app.engine.parameters import SearchParameters
from serve_app.engine.processors import RowRules, candidates_of, least_kept, top_k_of
from serve_app.engine.sampling import stream
from serve_app.engine.scheduler import Group, Hypothesis

HOPELESS = -1e9
"""transformers' score of what must not be chosen; finite, so that it can be added to."""

INTEGERS = (
    "length",  # tokens of the row so far
    "prompt",  # tokens of its prompt
    "fed",  # tokens of the prompt that have become nodes
    "active",  # whether a group sits in the row
    "beams",  # of its group; 0 without beams
    "sample",
    "early",  # early_stopping is true
    "never",  # early_stopping is "never"
    "max_length",
    "min_length",
    "ngram",
    "edge",
    "keep",
    "stream",  # key of its random numbers on a GPU
    "picture",  # slot of its image
    "ended",  # nothing more is looked for
    "improvable",  # a running beam may still become better than the worst finished one
    "is_finished",
    "finished_length",
)
FLOATS = ("penalty", "temperature", "tail", "length_penalty", "running", "finished")
Place = tuple[int, int]
"""Block and row."""


class RowState:
    """State of `blocks` blocks of `rows` rows; see `INTEGERS` and `FLOATS` for what each row has.

    Besides, `sequences` and `finished_sequences` [blocks, rows, positions]: token ids, the start token behind them.
    """

    def __init__(self, blocks: int, rows: int, positions: int, vocabulary: int, device: Device) -> None:
        """`positions` of the longest sequence."""
        self.positions, self.vocabulary = positions, vocabulary
        self._device, place = device, device.place
        # Packed, so that a group comes in by one copy; `view` has them by name.
        self.integers = torch.zeros(blocks, rows, len(INTEGERS), dtype=torch.int64, device=place)
        self.floats = torch.ones(blocks, rows, len(FLOATS), device=place)
        self.sequences = torch.zeros(blocks, rows, positions, dtype=torch.int64, device=place)
        self.finished_sequences = torch.zeros_like(self.sequences)
        self._views: dict[int, dict[str, torch.Tensor]] = {}

    def view(self, blocks: int) -> dict[str, torch.Tensor]:
        """The integers and floats of the first blocks, [blocks, rows] each, by name."""
        if blocks not in self._views:
            self._views[blocks] = {
                name: tensor[:blocks, :, place]
                for tensor, names in ((self.integers, INTEGERS), (self.floats, FLOATS))
                for place, name in enumerate(names)
            }
        return self._views[blocks]

    def rules(self, blocks: int) -> RowRules:
        names = ("length", "min_length", "ngram", "penalty", "temperature", "edge", "tail", "keep")
        return RowRules(**{name: self.view(blocks)[name].reshape(-1, 1) for name in names})

    def saved(self, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A copy of the integers and floats of the first blocks, for `restore`."""
        return self.integers[:blocks].clone(), self.floats[:blocks].clone()

    def restore(self, saved: tuple[torch.Tensor, torch.Tensor], but: torch.Tensor) -> None:
        """Takes back what has changed since in all rows `but` [blocks, rows] these."""
        for tensor, old in zip((self.integers, self.floats), saved, strict=True):
            new = tensor[: len(old)]
            torch.where(but[..., None], new, old, out=new)

    def write(self, group: Group, places: Sequence[Place]) -> None:
        """Everything about a group that a step wants to know, in its rows; behind its beams they are idle."""
        assert group.image is not None
        p = group.parameters
        beams, top_k = p.num_beams if p.num_beams > 1 else 0, top_k_of(p, self.vocabulary)
        integers = {
            "length": len(group.prompt),
            "prompt": len(group.prompt),
            "beams": beams,
            "sample": p.do_sample,
            "early": p.early_stopping is True,
            "never": p.early_stopping == "never",
            "max_length": p.max_length,
            "min_length": p.min_length,
            "ngram": p.no_repeat_ngram_size,
            "edge": min(top_k, candidates_of(p, self.vocabulary)) - 1,
            "keep": least_kept(p),
            "picture": group.image.slot,
            "improvable": True,
            "finished_length": len(group.prompt),
        }
        floats = {
            "penalty": p.repetition_penalty,
            "temperature": p.temperature if p.do_sample else 1.0,
            "tail": 1 - p.top_p if p.do_sample and p.top_p < 1 else -1.0,
            "length_penalty": p.length_penalty,
        }
        ids = [*group.prompt, *[group.prompt[0]] * (self.positions - len(group.prompt))]
        packed = []
        for number in range(len(places)):
            idle = bool(beams) and number >= beams
            # Only the first beam counts at first, or all would say the same.
            floats["running"] = -torch.inf if idle else 0.0 if number == 0 or not beams else HOPELESS
            floats["finished"] = -torch.inf if idle else HOPELESS
            more = {**integers, "active": not idle, "is_finished": idle, "stream": stream(group.seed, number)}
            bits = struct.pack(f"{len(FLOATS)}f", *(floats[name] for name in FLOATS))
            numbers = [int(more.get(name, 0)) for name in INTEGERS]
            packed.append([*numbers, *struct.unpack(f"{len(FLOATS)}i", bits), *ids])
        rows = self._device.upload(torch.tensor(packed))
        middle, end = len(INTEGERS), len(INTEGERS) + len(FLOATS)
        values = rows[:, middle:end].to(torch.int32).view(torch.float32)
        for where, what in _runs(places):
            self.integers[where] = rows[what, :middle]
            self.floats[where] = values[what]
            self.sequences[where] = rows[what, end:]
            self.finished_sequences[where] = rows[what, end:]

    def clear(self, place: Place | int | None = None) -> None:
        """Makes a row, a block or everything inactive: what it saw is free after the next step."""
        self.integers[slice(None) if place is None else place] = 0

    def move(self, block: int, to: int) -> None:
        for tensor in (self.integers, self.floats, self.sequences, self.finished_sequences):
            tensor[to] = tensor[block]

    def read(self, places: Sequence[Place], p: SearchParameters) -> Reading:
        """What `hypotheses` takes, on its way to the host."""
        if p.num_beams > 1:
            places = places[: p.num_return_sequences]
        blocks, rows = self._device.upload(torch.tensor(places).T.contiguous())
        beams, state = p.num_beams > 1, self.view(len(self.sequences))
        ids = (self.finished_sequences if beams else self.sequences)[blocks, rows, : p.max_length]
        lengths = state["finished_length" if beams else "length"][blocks, rows]
        scores = state["finished"][blocks, rows].view(torch.int32)
        return self._device.read(torch.cat((ids, lengths[:, None], scores[:, None].long()), 1))


def hypotheses(host: torch.Tensor, parameters: SearchParameters) -> list[Hypothesis]:
    """The sequences of a group, best first, of what `Batch.result` read."""
    found = []
    for row in host.tolist():
        *ids, length, bits = row
        score = struct.unpack("f", struct.pack("i", bits))[0] if parameters.num_beams > 1 else None
        found.append(Hypothesis(ids[:length], score))
    if parameters.num_beams > 1:  # a beam that never finished has transformers' score of one, and is no answer
        found = [found[0], *(each for each in found[1:] if each.score is not None and each.score > HOPELESS / 2)]
    return found


def _runs(places: Sequence[Place]) -> Iterator[tuple[tuple[int, slice], slice]]:
    """Rows that lie together: (block, rows), and their numbers among all."""
    begin = 0
    for number in range(1, len(places) + 1):
        block, row = places[number - 1]
        if number == len(places) or places[number] != (block, row + 1):
            yield (block, slice(places[begin][1], row + 1)), slice(begin, number)
            begin = number
