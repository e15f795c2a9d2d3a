"""The groups that run, and all that a step reads and writes of them, on the device.

Rows lie in blocks of equally many. A group with beams has a block to itself; groups without beams share blocks, row by
row. Blocks in use come first: when one becomes empty the last one takes its place.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from serve_app.engine.device import Device, Reading
from serve_app.engine.parameters import SearchParameters
from serve_app.engine.processors import Needs, RowRules, candidates_of, least_kept, top_k_of
from serve_app.engine.sampling import Draw
from serve_app.engine.scheduler import Group, Hypothesis
from serve_app.engine.tree import Tree

HOPELESS = -1e9
"""transformers' score of what must not be chosen; finite, so that it can be added to."""

_INTEGERS = (
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
    "seed",
    "picture",  # slot of its image
    "ended",  # nothing more is looked for
    "improvable",  # a running beam may still become better than the worst finished one
    "is_finished",
    "finished_length",
)
_ROUND = 16
"""A step reads a multiple of this many nodes, which suits the kernels."""
_FLOATS = ("penalty", "temperature", "tail", "length_penalty", "running", "finished")


@dataclass(eq=False, slots=True)
class Seat:
    """Where a running group sits."""

    group: Group
    rows: list[tuple[int, int]]
    """(block, row) of each of its rows."""
    prompt_steps: int
    """Steps until its prompt is fed."""
    generator: torch.Generator | None = None
    """Of a group that samples on a CPU."""

    @property
    def parameters(self) -> SearchParameters:
        return self.group.parameters


@dataclass(slots=True)
class _Block:
    beams: bool
    """Whether it belongs to one group with beams."""
    seats: list[Seat | None]
    top: int = 0
    """No node behind the first `top` is in use."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the tensors of a step look like."""

    blocks: int
    extent: int
    """Nodes of a block that are read."""
    pictures: int
    """Most images that the rows of one block ask."""
    prompts: bool
    """Whether some rows are in their prompts still."""
    needs: Needs


@dataclass(frozen=True, slots=True)
class Launched:
    """Who was where when a step was launched."""

    seats: list[tuple[Seat, list[tuple[int, int]]]]
    blocks: list[_Block]


@dataclass
class Batch:
    """State of `blocks` blocks; see `_INTEGERS` and `_FLOATS` for what each row has."""

    blocks: int
    rows: int
    positions: int
    """Longest sequence."""
    vocabulary: int
    device: Device
    tree: Tree
    seats: list[Seat] = field(default_factory=list)
    unread: int = 0
    """Steps under way whose reports have not been read."""

    def __post_init__(self) -> None:
        shape, device = (self.blocks, self.rows), self.device.place
        self.used: list[_Block] = []
        self._integers = torch.zeros(*shape, len(_INTEGERS), dtype=torch.int64, device=device)
        self._floats = torch.ones(*shape, len(_FLOATS), device=device)
        self.sequences = torch.zeros(*shape, self.positions, dtype=torch.int64, device=device)
        self.finished_sequences = torch.zeros_like(self.sequences)
        self.state: dict[str, torch.Tensor] = {
            name: tensor[..., place]
            for tensor, names in ((self._integers, _INTEGERS), (self._floats, _FLOATS))
            for place, name in enumerate(names)
        }
        """[blocks, rows] each, by name; views of what is kept packed, so that a group comes in by one copy."""
        self._views: dict[int, dict[str, torch.Tensor]] = {}
        self._company: tuple[list[int], int, Needs] | None = None
        """Image slots of the rows, most images of a block, and needs; None when somebody came or left."""

    @property
    def rows_used(self) -> int:
        return sum(len(seat.rows) for seat in self.seats)

    def has_room(self, group: Group) -> bool:
        fresh = self.blocks - len(self.used)
        return fresh > 0 if group.parameters.num_beams > 1 else group.rows <= fresh * self.rows + len(self._free())

    def open(self, group: Group) -> Seat:
        """Seats a group whose image is encoded. Needs `has_room`."""
        beams, fed = group.parameters.num_beams > 1, len(group.prompt) - 1
        if beams:
            self.used.append(_Block(True, [None] * self.rows))
            places = [(len(self.used) - 1, row) for row in range(self.rows)]
        else:
            while len(free := self._free()) < group.rows:
                self.used.append(_Block(False, [None] * self.rows))
            places = free[: group.rows]
        seat = Seat(group, places, -(-fed // self.rows) if beams else fed)
        for block, row in places:
            self.used[block].seats[row] = seat
        self.seats.append(seat)
        self._company = None
        self._write(seat)
        return seat

    def close(self, seat: Seat) -> None:
        """Frees the group's rows; a block that becomes empty is taken by the last one."""
        self.seats.remove(seat)
        self._company = None
        for block, row in seat.rows:
            self.used[block].seats[row] = None
            self._integers[block, row] = 0  # not active: what it saw is free after the next step
        for block in sorted({block for block, _ in seat.rows}, reverse=True):
            if not any(self.used[block].seats):
                self._remove(block)

    def clear(self) -> list[Seat]:
        """Ends all groups, whatever state they are in; returns their seats."""
        seats, self.seats, self.used, self.unread = self.seats, [], [], 0
        self._company = None
        self._integers.zero_()
        self.tree.seen.zero_()
        return seats

    def result(self, seat: Seat) -> Reading:
        """What `hypotheses` reads, on its way to the host."""
        p = seat.parameters
        if p.num_beams > 1:
            block = seat.rows[0][0]
            rows = slice(p.num_return_sequences)
            ids = self.finished_sequences[block, rows, : p.max_length]
            lengths = self.state["finished_length"][block, rows]
        else:
            blocks, numbers = zip(*seat.rows, strict=True)
            places = self.device.upload(torch.tensor([blocks, numbers]))
            ids = self.sequences[places[0], places[1], : p.max_length]
            lengths, rows, block = self.state["length"][places[0], places[1]], slice(len(ids)), 0
        scores = self._floats[block, rows, _FLOATS.index("finished")].contiguous().view(torch.int32)
        return self.device.read(torch.cat((ids, lengths[:, None], scores[:, None].long()), 1))

    def largest(self) -> Seat:
        """The group whose block has the largest tree; of those that share it the last one."""
        block = max(self.used, key=lambda block: block.top)
        return next(seat for seat in reversed(self.seats) if seat in block.seats)

    def shape(self) -> Shape:
        """Shape of the next step. Grows the tree where that is needed; raises what `Tree.ensure` raises."""
        top = max((self._top(block) for block in self.used), default=0) + self.rows
        self.tree.ensure(top)
        extent = min(-(-top // _ROUND) * _ROUND, self.tree.nodes)
        if self._company is None:
            by_block = [self._pictures(block) for block in range(len(self.used))]
            needs = Needs.of((seat.parameters for seat in self.seats), self.vocabulary)
            pictures = [slot for slots in by_block for slot in slots]
            self._company = pictures, max(len(set(slots)) for slots in by_block), needs
        _, pictures_of_one, needs = self._company
        return Shape(len(self.used), extent, pictures_of_one, any(seat.prompt_steps for seat in self.seats), needs)

    @property
    def pictures(self) -> list[int]:
        """The image slots of the rows in use, as of the last `shape`; of a row without a group another's."""
        assert self._company is not None
        return self._company[0]

    def view(self, blocks: int) -> dict[str, torch.Tensor]:
        """The state of the first blocks, [blocks, rows] each, by name."""
        if blocks not in self._views:
            self._views[blocks] = {name: tensor[:blocks] for name, tensor in self.state.items()}
        return self._views[blocks]

    def _pictures(self, block: int) -> list[int]:
        seats = self.used[block].seats
        some = next(seat for seat in seats if seat is not None)
        return [_picture(seat or some) for seat in seats]

    def draws(self) -> list[Draw]:
        """Who draws in the next step, on a CPU."""
        return [
            Draw(seat.generator, seat.rows[: seat.parameters.num_beams] if seat.parameters.num_beams > 1 else seat.rows)
            for seat in self.seats
            if seat.generator is not None and not seat.prompt_steps
        ]

    def launched(self) -> Launched:
        """Counts a step that was launched; returns what `end_step` wants to know of it."""
        for seat in self.seats:
            seat.prompt_steps = max(0, seat.prompt_steps - 1)
        self.unread += 1
        return Launched([(seat, seat.rows) for seat in self.seats], list(self.used))

    def end_step(self, launched: Launched, report: torch.Tensor) -> list[Seat]:
        """Takes in what a step reported, [blocks, rows + 1]: the rows that ended and the nodes in use.

        Returns the seats that ended and were not closed meanwhile.
        """
        self.unread -= 1
        found = report.tolist()
        for block, row in zip(launched.blocks, found, strict=False):
            block.top = row[-1]
        running = set(map(id, self.seats))
        return [seat for seat, rows in launched.seats if id(seat) in running and all(found[b][r] for b, r in rows)]

    def rules(self, blocks: int) -> RowRules:
        names = ("length", "min_length", "ngram", "penalty", "temperature", "edge", "tail", "keep")
        return RowRules(**{name: self.view(blocks)[name].reshape(-1, 1) for name in names})

    def check_integrity(self) -> None:
        """Seats and blocks agree, rows see at most existing nodes, and active rows see something once they ran."""
        for number, block in enumerate(self.used):
            assert any(block.seats), f"block {number} is empty"
            for row, seat in enumerate(block.seats):
                assert seat is None or (number, row) in seat.rows, f"row {row} of block {number} has a wrong seat"
        taken = [place for seat in self.seats for place in seat.rows]
        assert len(taken) == len(set(taken)), "a row is taken twice"
        assert len(taken) == sum(seat is not None for block in self.used for seat in block.seats)
        for number, block in enumerate(self.used):
            assert not self.tree.seen[number, :, block.top :].any(), f"block {number} sees nodes beyond its {block.top}"

    def _top(self, block: _Block) -> int:
        """No node behind it is in use when all steps that were launched are done."""
        return block.top + self.unread * self.rows

    def _free(self) -> list[tuple[int, int]]:
        """Rows of shared blocks that nobody has."""
        return [
            (number, row)
            for number, block in enumerate(self.used)
            if not block.beams
            for row, seat in enumerate(block.seats)
            if seat is None
        ]

    def _remove(self, block: int) -> None:
        last = len(self.used) - 1
        moved = self.used.pop()
        if block != last:
            for tensor in (self._integers, self._floats, self.sequences, self.finished_sequences):
                tensor[block] = tensor[last]
            self.tree.move(last, block, min(self._top(moved), self.tree.nodes))
            self.used[block] = moved
            for seat in self.seats:
                seat.rows = [(block if at == last else at, row) for at, row in seat.rows]
        self._integers[last] = 0
        self.tree.seen[last] = False

    def _write(self, seat: Seat) -> None:
        """Everything about the group that a step wants to know."""
        group, p = seat.group, seat.parameters
        beams = p.num_beams if p.num_beams > 1 else 0
        if p.do_sample and self.device.place.type == "cpu":
            seat.generator = torch.Generator().manual_seed(group.seed)
        top_k = top_k_of(p, self.vocabulary)
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
            "seed": group.seed,
            "picture": _picture(seat),
            "improvable": True,
            "finished_length": len(group.prompt),
        }
        floats = {
            "penalty": p.repetition_penalty,
            "temperature": p.temperature if p.do_sample else 1.0,
            "tail": 1 - p.top_p if p.do_sample and p.top_p < 1 else -1.0,
            "length_penalty": p.length_penalty,
        }
        rows = []
        for number in range(len(seat.rows)):
            idle = bool(beams) and number >= beams
            floats["running"] = -torch.inf if idle else 0.0 if number == 0 or not beams else HOPELESS
            floats["finished"] = -torch.inf if idle else HOPELESS
            more = {**integers, "active": not idle, "is_finished": idle}
            bits = struct.pack(f"{len(_FLOATS)}f", *(floats[name] for name in _FLOATS))
            rows.append(([int(more.get(name, 0)) for name in _INTEGERS], struct.unpack(f"{len(_FLOATS)}i", bits)))
        fill = [group.prompt[0]] * (self.positions - len(group.prompt))
        packed = torch.tensor([[*given, *bits, *group.prompt, *fill] for given, bits in rows])
        packed = self.device.upload(packed)
        middle, end = len(_INTEGERS), len(_INTEGERS) + len(_FLOATS)
        given, ids = packed[:, :middle], packed[:, end:]
        values = packed[:, middle:end].to(torch.int32).view(torch.float32)
        for where, what in _runs(seat.rows):
            self._integers[where] = given[what]
            self._floats[where] = values[what]
            self.sequences[where] = ids[what]
            self.finished_sequences[where] = ids[what]
            self.tree.seen[where] = False


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


def _picture(seat: Seat) -> int:
    assert seat.group.image is not None
    return seat.group.image.slot


def _runs(places: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, slice], slice]]:
    """Rows that lie together: (block, rows), and their numbers among all."""
    begin = 0
    for number in range(1, len(places) + 1):
        block, row = places[number - 1]
        if number == len(places) or places[number] != (block, row + 1):
            yield (block, slice(places[begin][1], row + 1)), slice(begin, number)
            begin = number
