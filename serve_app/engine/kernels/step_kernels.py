"""What `Stepper` does before and after the decoder, in two kernels; one program takes one block of rows."""

from __future__ import annotations

import triton
import triton.language as tl

from serve_app.engine.kernels.columns import (
    ACTIVE,
    BEAMS,
    ENDED,
    FED,
    LENGTH,
    N_INTEGERS,
    PROMPT,
)
from serve_app.engine.kernels.search_kernels import _at


@triton.jit
def _prepare(  # type: ignore[no-untyped-def]
    seen, integers, sequences, nodes, tokens, places, own, goes_on,
    extent, seen_block, seen_row, positions,
    ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One block: which token each row takes, where it goes, and which new nodes it sees."""
    block = tl.program_id(0).to(tl.int64)
    row, node = tl.arange(0, ROWS), tl.arange(0, WIDE)
    first = block * ROWS
    at = block * seen_block + row[:, None] * seen_row + node[None, :]
    taken = tl.max(tl.load(seen + at, mask=(node < extent)[None, :], other=1), 0)
    free = (taken == 0).to(tl.int32)
    rank = tl.cumsum(free, 0)
    mine = (free != 0)[None, :] & (rank[None, :] == row[:, None] + 1)
    tl.store(nodes + first + row, tl.sum(tl.where(mine, node[None, :], 0), 1).to(tl.int64))

    ints = integers + (first + row) * N_INTEGERS
    fed, last = tl.load(ints + FED), tl.load(ints + PROMPT) - 1
    inside = fed < last
    together = inside & (tl.load(ints + BEAMS) > 0)
    in_prompt = tl.minimum(fed + tl.where(together, row, 0), last - 1)
    place = tl.maximum(tl.where(inside, in_prompt, tl.load(ints + LENGTH) - 1), 0)
    goes = (tl.load(ints + ACTIVE) > 0) & (tl.load(ints + ENDED) == 0) & ~inside
    tl.store(places + first + row, place)
    tl.store(tokens + first + row, tl.load(sequences + (first + row) * positions + place))
    tl.store(goes_on + first + row, goes)
    sees = (row[None, :] == row[:, None]) | (together[:, None] & (row[None, :] <= row[:, None]))
    tl.store(own + (first + row)[:, None] * ROWS + row[None, :], sees)


@triton.jit
def _commit(  # type: ignore[no-untyped-def]
    seen, integers, nodes, own, goes_on, parents, report,
    extent, seen_block, seen_row,
    ROWS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One block: rows see what their parents saw, those in a prompt what was fed, and those of no group nothing."""
    block = tl.program_id(0).to(tl.int64)
    row, node = tl.arange(0, ROWS), tl.arange(0, WIDE)
    first = block * ROWS
    ints = integers + (first + row) * N_INTEGERS
    fed, last = tl.load(ints + FED), tl.load(ints + PROMPT) - 1
    inside = fed < last
    together = inside & (tl.load(ints + BEAMS) > 0)
    goes = tl.load(goes_on + first + row) != 0
    # The last row saw all nodes of the prompt's part; what was fed beyond its end goes.
    parent = tl.where(together, ROWS - 1, tl.load(parents + first + row))
    some = (node < extent)[None, :]
    at = block * seen_block + parent[:, None] * seen_row + node[None, :]
    kept = tl.load(seen + at, mask=some, other=0).to(tl.int32)
    sees = tl.load(own + (first + parent)[:, None] * ROWS + row[None, :]).to(tl.int32)
    sees = tl.where(together[:, None], ((fed[:, None] + row[None, :]) < last[:, None]).to(tl.int32), sees)
    new = tl.load(nodes + first + row)
    for j in range(ROWS):
        here = node == _at(new, row == j)
        bit = tl.sum(tl.where((row == j)[None, :], sees, 0), 1)
        kept = tl.where(here[None, :], bit[:, None], kept)
    kept = tl.where((goes | inside)[:, None] & some, kept, 0)
    tl.debug_barrier()
    at = block * seen_block + row[:, None] * seen_row + node[None, :]
    tl.store(seen + at, kept, mask=some)
    step = tl.where(together, ROWS, 1)
    tl.store(ints + FED, tl.minimum(fed + step, last), mask=inside)
    done = (tl.load(ints + ENDED) != 0) | (tl.load(ints + ACTIVE) == 0)
    tl.store(report + block * (ROWS + 1) + row, done.to(tl.int64))
    top = tl.max(tl.max(tl.where(kept != 0, node[None, :] + 1, 0), 1), 0)
    tl.store(report + block * (ROWS + 1) + ROWS, top.to(tl.int64))
