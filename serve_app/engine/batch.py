"""The groups that run, and the rows where they sit.

Rows lie in blocks of equally many. A group with beams has a block to itself; groups without beams share blocks, row by
row. Blocks in use come first: when one becomes empty the last one takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serve_app.engine.device import Device, Reading
from serve_app.engine.parameters import SearchParameters
from serve_app.engine.processors import Needs
from serve_app.engine.sampling import Draw
from serve_app.engine.scheduler import Group
from serve_app.engine.state import Place, RowState
from serve_app.engine.tree import Tree

_ROUND = 16
"""A step reads a multiple of this many nodes, which suits the kernels."""


@dataclass(eq=False, slots=True)
class Seat:
    """Where a running group sits."""

    group: Group
    rows: list[Place]
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

    seats: list[tuple[Seat, list[Place]]]
    blocks: list[_Block]


class Batch:
    """Blocks of rows, and the tree of each."""

    def __init__(self, state: RowState, tree: Tree, device: Device) -> None:
        self.state, self.tree, self.device = state, tree, device
        self.blocks, self.rows = tree.blocks, tree.rows
        self.seats: list[Seat] = []
        self.used: list[_Block] = []
        self.unread = 0
        """Steps under way whose reports have not been read."""
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
        self.state.write(group, places)
        if group.parameters.do_sample and self.device.place.type == "cpu":
            seat.generator = torch.Generator().manual_seed(group.seed)
        for block, row in places:
            self.tree.seen[block, row] = False
        return seat

    def close(self, seat: Seat) -> None:
        """Frees the group's rows; a block that becomes empty is taken by the last one."""
        self.seats.remove(seat)
        self._company = None
        for block, row in seat.rows:
            self.used[block].seats[row] = None
            self.state.clear((block, row))
        for block in sorted({block for block, _ in seat.rows}, reverse=True):
            if not any(self.used[block].seats):
                self._remove(block)

    def clear(self) -> None:
        """Forgets all groups, whatever state they are in."""
        self.seats, self.used, self.unread, self._company = [], [], 0, None
        self.state.clear()
        self.tree.seen.zero_()

    def fed(self, seat: Seat, top: int) -> None:
        """A group's whole prompt has become nodes, none of them behind `top`."""
        for block, row in seat.rows:
            self.state.view(self.blocks)["fed"][block, row] = len(seat.group.prompt) - 1
            self.used[block].top = max(self.used[block].top, top)
        seat.prompt_steps = 0

    def result(self, seat: Seat) -> Reading:
        """What `hypotheses` takes, on its way to the host."""
        return self.state.read(seat.rows, seat.parameters)

    def largest(self) -> Seat:
        """The group whose block has the largest tree; of those that share it the last one."""
        block = max(self.used, key=lambda block: block.top)
        return next(seat for seat in reversed(self.seats) if seat in block.seats)

    def shape(self) -> Shape:
        """Shape of the next step. Grows the tree if needed; raises what `Tree.ensure` raises."""
        top = max((self._top(block) for block in self.used), default=0) + self.rows
        self.tree.ensure(top)
        extent = min(-(-top // _ROUND) * _ROUND, self.tree.nodes)
        if self._company is None:
            by_block = [self._pictures(block) for block in range(len(self.used))]
            needs = Needs.of((seat.parameters for seat in self.seats), self.state.vocabulary)
            pictures = [slot for slots in by_block for slot in slots]
            self._company = pictures, max(len(set(slots)) for slots in by_block), needs
        _, pictures_of_one, needs = self._company
        return Shape(len(self.used), extent, pictures_of_one, any(seat.prompt_steps for seat in self.seats), needs)

    @property
    def pictures(self) -> list[int]:
        """The image slots of the rows in use, as of the last `shape`; of a row without a group another's."""
        assert self._company is not None
        return self._company[0]

    def _pictures(self, block: int) -> list[int]:
        seats = self.used[block].seats
        some = next(seat for seat in seats if seat is not None)
        images = [(seat or some).group.image for seat in seats]
        return [image.slot for image in images if image is not None]

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

    def check_integrity(self) -> None:
        """Seats and blocks agree, and no row sees a node behind its block's `top`; when all reports have been read."""
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

    def _free(self) -> list[Place]:
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
            self.state.move(last, block)
            self.tree.move(last, block, min(self._top(moved), self.tree.nodes))
            self.used[block] = moved
            for seat in self.seats:
                seat.rows = [(block if at == last else at, row) for at, row in seat.rows]
        self.state.clear(last)
        self.tree.seen[last] = False
