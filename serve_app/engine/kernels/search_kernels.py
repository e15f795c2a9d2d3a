"""What a step does besides the decoder, as Triton kernels: four launches for two hundred and fifty of torch.

`prepare` and `commit` are what `stepper` does before and after the decoder, `penalise` and `advance` what `processors`,
`sampling` and `search` do; between the logits and `advance` stand PyTorch's `log_softmax` and `topk`. One program takes
one row (`penalise`) or one block of rows. Columns of the packed state are constants of the kernels.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from serve_app.engine.batch import Batch, Shape
from serve_app.engine.kernels import Prepared
from serve_app.engine.sampling import FIRST, GOLDEN, SECOND
from serve_app.engine.state import FLOATS, HOPELESS, INTEGERS

MOST_CANDIDATES, MOST_SEEN = 8192, 16384
"""Candidates, and rows times nodes, of a block that one program holds in its registers."""
_HOPELESS = tl.constexpr(HOPELESS)
_LOW, _USED = tl.constexpr(-1e30), tl.constexpr(-3e38)
"""Stand-ins for what has no chance and what was taken, so that a search for the largest takes everything once."""
_LENGTH = tl.constexpr(INTEGERS.index("length"))
_PROMPT = tl.constexpr(INTEGERS.index("prompt"))
_FED = tl.constexpr(INTEGERS.index("fed"))
_ACTIVE = tl.constexpr(INTEGERS.index("active"))
_BEAMS = tl.constexpr(INTEGERS.index("beams"))
_SAMPLE = tl.constexpr(INTEGERS.index("sample"))
_EARLY = tl.constexpr(INTEGERS.index("early"))
_NEVER = tl.constexpr(INTEGERS.index("never"))
_MAX_LENGTH = tl.constexpr(INTEGERS.index("max_length"))
_MIN_LENGTH = tl.constexpr(INTEGERS.index("min_length"))
_NGRAM = tl.constexpr(INTEGERS.index("ngram"))
_EDGE = tl.constexpr(INTEGERS.index("edge"))
_KEEP = tl.constexpr(INTEGERS.index("keep"))
_SEED = tl.constexpr(INTEGERS.index("seed"))
_ENDED = tl.constexpr(INTEGERS.index("ended"))
_IMPROVABLE = tl.constexpr(INTEGERS.index("improvable"))
_IS_FINISHED = tl.constexpr(INTEGERS.index("is_finished"))
_FINISHED_LENGTH = tl.constexpr(INTEGERS.index("finished_length"))
_PENALTY = tl.constexpr(FLOATS.index("penalty"))
_TEMPERATURE = tl.constexpr(FLOATS.index("temperature"))
_TAIL = tl.constexpr(FLOATS.index("tail"))
_LENGTH_PENALTY = tl.constexpr(FLOATS.index("length_penalty"))
_RUNNING = tl.constexpr(FLOATS.index("running"))
_FINISHED = tl.constexpr(FLOATS.index("finished"))
_N_INTEGERS, _N_FLOATS = tl.constexpr(len(INTEGERS)), tl.constexpr(len(FLOATS))
_FIRST, _SECOND, _GOLDEN = tl.constexpr(FIRST), tl.constexpr(SECOND), tl.constexpr(GOLDEN)


@triton.jit
def _penalise(  # type: ignore[no-untyped-def]
    scores, sequences, integers, floats, vocabulary, positions, width, end, LARGEST: tl.constexpr, WIDE: tl.constexpr
):
    """One row: repetition penalty, n-gram bans and the least length, in place.

    scores [rows, vocabulary]; sequences [rows, positions], of which `width` are looked at; LARGEST n-gram.
    """
    row = tl.program_id(0).to(tl.int64)
    ints, reals = integers + row * _N_INTEGERS, floats + row * _N_FLOATS
    place = tl.arange(0, WIDE)
    length, ngram = tl.load(ints + _LENGTH + place * 0), tl.load(ints + _NGRAM + place * 0)
    penalty = tl.load(reals + _PENALTY)
    inside = place < width
    said = tl.load(sequences + row * positions + place, mask=inside, other=0)
    old = tl.load(scores + row * vocabulary + said, mask=inside, other=0.0)
    new = tl.where(old < 0, old * penalty, old / penalty)
    tl.debug_barrier()  # all are read before one of them is written
    tl.store(scores + row * vocabulary + said, new, mask=inside)
    tl.debug_barrier()

    start = tl.maximum(length - ngram + 1, 0)
    last = place + ngram - 1
    repeated = (last < length) & (ngram > 0) & inside
    for offset in tl.static_range(LARGEST - 1):
        at = tl.minimum(place + offset, width - 1)
        here = tl.load(sequences + row * positions + at, mask=inside, other=0)
        there = tl.load(sequences + row * positions + tl.minimum(start + offset, width - 1))
        repeated = repeated & ((here == there) | (ngram <= offset + 1))
    banned = tl.load(sequences + row * positions + tl.minimum(tl.maximum(last, 0), width - 1), mask=inside, other=0)
    tl.store(scores + row * vocabulary + banned, float("-inf"), mask=repeated)
    too_short = (place == 0) & (length < tl.load(ints + _MIN_LENGTH + place * 0))
    tl.store(scores + row * vocabulary + end + place, float("-inf"), mask=too_short)


@triton.jit
def _logical(x, shift: tl.constexpr):  # type: ignore[no-untyped-def]
    return (x >> shift) & ((1 << (64 - shift)) - 1)


@triton.jit
def _mixed(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finalizer, as in `sampling`."""
    x = (x ^ _logical(x, 30)) * _FIRST
    x = (x ^ _logical(x, 27)) * _SECOND
    return x ^ _logical(x, 31)


@triton.jit
def _both(mask, switch):  # type: ignore[no-untyped-def]
    """A mask, or nothing of it; the interpreter makes no mask of one and a scalar by `&`."""
    return tl.where(switch, mask, mask != mask)


@triton.jit
def _floored(x):  # type: ignore[no-untyped-def]
    return tl.where(x > _LOW, x, _LOW)


@triton.jit
def _at(x, where):  # type: ignore[no-untyped-def]
    """The element of a vector that a mask with one true place picks."""
    return tl.sum(tl.where(where, x, 0), 0)


@triton.jit
def _power(base, exponent):  # type: ignore[no-untyped-def]
    return tl.exp(exponent.to(tl.float64) * tl.log(base.to(tl.float64))).to(tl.float32)


@triton.jit
def _share(x):  # type: ignore[no-untyped-def]
    """Softmax over the last dimension of two."""
    most = tl.max(x, 1)
    weights = tl.exp(x - tl.where(most == float("-inf"), 0.0, most)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _order(values, totals, tokens, beam, sample, seed, length, row):  # type: ignore[no-untyped-def]
    """By what candidates are ranked: their totals, or where a row samples p / e, as `Search._order` says."""
    most = tl.max(tl.max(totals, 1), 0)
    weights = tl.exp(totals - tl.where(most == float("-inf"), 0.0, most))
    chances = tl.where(beam, weights / tl.sum(tl.sum(weights, 1), 0), _share(values))
    key = _mixed(seed * _FIRST + (length * 4096 + row) * _SECOND)
    bits = _mixed(key[:, None] + tokens * _GOLDEN)
    uniform = ((bits >> 41) & ((1 << 23) - 1)).to(tl.float32)
    noise = -tl.log((uniform + 0.5) * 1.1920928955078125e-07)  # 2 ** -23
    return tl.where(sample[:, None] != 0, chances / noise, totals)


@triton.jit
def _advance(  # type: ignore[no-untyped-def]
    values, tokens, sequences, finished_sequences, integers, floats, goes_on, parents,
    candidates, positions, width, end,
    ROWS: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One block: every row takes its next token; beams move, end and are judged.

    values, tokens [rows, candidates], best first; sequences, finished_sequences [rows, positions], of which `width` are
    looked at; goes_on, parents [rows].
    """
    TWICE: tl.constexpr = 2 * ROWS
    block = tl.program_id(0).to(tl.int64)
    row, rank = tl.arange(0, ROWS), tl.arange(0, TWICE)
    first = block * ROWS
    ints, reals = integers + (first + row) * _N_INTEGERS, floats + (first + row) * _N_FLOATS
    goes = tl.load(goes_on + first + row) != 0
    length, maximum = tl.load(ints + _LENGTH), tl.load(ints + _MAX_LENGTH)
    running = tl.load(reals + _RUNNING)
    n = tl.max(tl.load(ints + _BEAMS), 0)
    beam = n > 0

    place = tl.arange(0, K)
    inside = place < candidates
    at = (first + row)[:, None] * candidates + place[None, :]
    v = tl.load(values + at, mask=inside[None, :], other=float("-inf"))
    t = tl.load(tokens + at, mask=inside[None, :], other=0)
    v = v / tl.load(reals + _TEMPERATURE)[:, None]
    edge = tl.sum(tl.where(place[None, :] == tl.load(ints + _EDGE)[:, None], v, 0.0), 1)
    v = tl.where(v < edge[:, None], float("-inf"), v)
    below = tl.cumsum(_share(v), 1, reverse=True)
    drop = (below <= tl.load(reals + _TAIL)[:, None]) & (place[None, :] >= tl.load(ints + _KEEP)[:, None])
    v = tl.where(drop, float("-inf"), v)
    totals = v + running[:, None]
    sample, seed = tl.load(ints + _SAMPLE), tl.load(ints + _SEED)
    order = _order(v, totals, t, beam, sample, seed, length, row)
    order = tl.where((running == float("-inf"))[:, None] | ~inside[None, :], float("-inf"), order)

    # Without beams: each row its best.
    best = tl.argmax(order, 1)
    alone = tl.sum(tl.where(place[None, :] == best[:, None], t, 0), 1)
    alone_ended = (alone == end) | (length + 1 >= maximum)

    # With beams: the best two for each row, of all rows.
    flat = tl.reshape(_floored(order), [ROWS * K])
    flat_totals, flat_tokens = tl.reshape(totals, [ROWS * K]), tl.reshape(t, [ROWS * K])
    index = tl.arange(0, ROWS * K)
    chosen = tl.full([TWICE], float("-inf"), tl.float32)
    parent, token = tl.zeros([TWICE], tl.int32), tl.zeros([TWICE], tl.int64)
    for i in range(TWICE):
        found = tl.argmax(flat, 0)
        this = index == found
        chosen = tl.where(rank == i, _at(flat_totals, this), chosen)
        parent = tl.where(rank == i, (found // K).to(tl.int32), parent)
        token = tl.where(rank == i, _at(flat_tokens, this), token)
        flat = tl.where(this, _USED, flat)
    now, limit = tl.max(length, 0), tl.max(maximum, 0)
    prompt = tl.max(tl.load(ints + _PROMPT), 0)
    exponent = tl.max(tl.load(reals + _LENGTH_PENALTY), 0)
    real = rank < 2 * n
    hits = tl.where(now + 1 >= limit, rank >= 0, token == end)
    open_scores = tl.where(real, chosen + tl.where(hits, _HOPELESS, 0.0), float("-inf"))
    left = _floored(open_scores)
    next_running = tl.full([ROWS], float("-inf"), tl.float32)
    next_parent, next_token = row, tl.zeros([ROWS], tl.int64)
    for i in range(ROWS):
        this = rank == tl.argmax(left, 0)
        next_running = tl.where(row == i, _at(open_scores, this), next_running)
        next_parent = tl.where(row == i, _at(parent, this), next_parent)
        next_token = tl.where(row == i, _at(token, this), next_token)
        left = tl.where(this, _USED, left)

    # The best finished sequences, old and new.
    is_finished, early = tl.load(ints + _IS_FINISHED), tl.max(tl.load(ints + _EARLY), 0) != 0
    improvable = tl.max(tl.load(ints + _IMPROVABLE), 0) != 0
    ends = hits & (rank < n)
    full = (tl.min(is_finished, 0) != 0) & early
    closed = tl.where(full, _HOPELESS, 0.0) + tl.where(improvable, 0.0, _HOPELESS)
    scores = chosen / _power(now + 1 - prompt, exponent) + closed + tl.where(ends, 0.0, _HOPELESS)
    scores = tl.where(real, scores, float("-inf"))
    finished, finished_length = tl.load(reals + _FINISHED), tl.load(ints + _FINISHED_LENGTH)
    old, new = _floored(finished), _floored(scores)
    next_finished, next_is_finished, next_length = finished, is_finished, finished_length
    is_old, source, last = tl.zeros([ROWS], tl.int32), row, tl.zeros([ROWS], tl.int64)
    for i in range(ROWS):
        mine, theirs = row == tl.argmax(old, 0), rank == tl.argmax(new, 0)
        keeps = tl.max(old, 0) >= tl.max(new, 0)
        this = row == i
        next_finished = tl.where(this, tl.where(keeps, _at(finished, mine), _at(scores, theirs)), next_finished)
        ended = tl.where(keeps, _at(is_finished, mine), _at(ends.to(tl.int64), theirs))
        next_is_finished = tl.where(this, ended, next_is_finished)
        next_length = tl.where(this, tl.where(keeps, _at(finished_length, mine), now + 1), next_length)
        is_old = tl.where(this, keeps.to(tl.int32), is_old)
        source = tl.where(this, tl.where(keeps, _at(row, mine), _at(parent, theirs)), source)
        last = tl.where(this, _at(token, theirs), last)
        old = tl.where(_both(mine, keeps), _USED, old)
        new = tl.where(keeps, new, tl.where(theirs, _USED, new))

    # Whether the group can still gain.
    never = (tl.max(tl.load(ints + _NEVER), 0) != 0) & (exponent > 0)
    longest = tl.where(never, limit, now + 1)
    best_running = _at(next_running, row == 0) / _power(longest - prompt, exponent)
    own = row < n
    worst = tl.min(tl.where(own, next_finished, float("inf")), 0)
    worst = tl.where(next_is_finished != 0, worst, _HOPELESS)
    hope = improvable & (tl.max(tl.where((best_running > worst) & own, 1, 0), 0) != 0)
    all_finished = tl.min(tl.where(own, next_is_finished, 1), 0) != 0
    all_hit = tl.min(tl.where(hits | ~real, 1, 0), 0) != 0
    over = ~hope | (all_finished & early) | all_hit

    # Sequences are all read before one of them is written.
    token_of_row = tl.where(beam, next_token, alone)
    from_row = tl.where(beam, next_parent, row)
    w = tl.arange(0, WIDE)
    some = (w < width)[None, :]
    ids = tl.load(sequences + (first + from_row)[:, None] * positions + w[None, :], mask=some, other=0)
    ids = tl.where(w[None, :] == length[:, None], token_of_row[:, None], ids)
    at = (first + source)[:, None] * positions + w[None, :]
    is_new = (is_old == 0)[:, None]
    kept = tl.load(finished_sequences + at, mask=some & (is_old != 0)[:, None], other=0)
    kept += tl.load(sequences + at, mask=some & is_new, other=0)
    kept = tl.where((w == now)[None, :] & is_new, last[:, None], kept)
    moves = _both(goes, beam)
    tl.debug_barrier()
    at = (first + row)[:, None] * positions + w[None, :]
    tl.store(sequences + at, ids, mask=some & goes[:, None])
    tl.store(finished_sequences + at, kept, mask=some & moves[:, None])
    tl.store(parents + first + row, tl.where(moves, next_parent, row).to(tl.int64))
    tl.store(ints + _LENGTH, length + 1, mask=goes)
    tl.store(ints + _ENDED, tl.where(beam, over.to(tl.int64), alone_ended.to(tl.int64)), mask=goes)
    tl.store(ints + _IMPROVABLE, tl.where(row >= 0, hope.to(tl.int64), 0), mask=moves)
    tl.store(ints + _IS_FINISHED, next_is_finished, mask=moves)
    tl.store(ints + _FINISHED_LENGTH, next_length, mask=moves)
    tl.store(reals + _RUNNING, next_running, mask=moves)
    tl.store(reals + _FINISHED, next_finished, mask=moves)


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

    ints = integers + (first + row) * _N_INTEGERS
    fed, last = tl.load(ints + _FED), tl.load(ints + _PROMPT) - 1
    inside = fed < last
    together = inside & (tl.load(ints + _BEAMS) > 0)
    in_prompt = tl.minimum(fed + tl.where(together, row, 0), last - 1)
    place = tl.maximum(tl.where(inside, in_prompt, tl.load(ints + _LENGTH) - 1), 0)
    goes = (tl.load(ints + _ACTIVE) > 0) & (tl.load(ints + _ENDED) == 0) & ~inside
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
    ints = integers + (first + row) * _N_INTEGERS
    fed, last = tl.load(ints + _FED), tl.load(ints + _PROMPT) - 1
    inside = fed < last
    together = inside & (tl.load(ints + _BEAMS) > 0)
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
    tl.store(ints + _FED, tl.minimum(fed + step, last), mask=inside)
    done = (tl.load(ints + _ENDED) != 0) | (tl.load(ints + _ACTIVE) == 0)
    tl.store(report + block * (ROWS + 1) + row, done.to(tl.int64))
    top = tl.max(tl.max(tl.where(kept != 0, node[None, :] + 1, 0), 1), 0)
    tl.store(report + block * (ROWS + 1) + ROWS, top.to(tl.int64))


@torch.library.custom_op("caption_serve::prepare", mutates_args=())
def prepare(
    seen: torch.Tensor, integers: torch.Tensor, sequences: torch.Tensor, blocks: int, extent: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(nodes, tokens, positions, own, goes_on) of a step, as `Stepper` has them."""
    rows = seen.shape[1]
    nodes, tokens, places = (integers.new_empty(blocks, rows) for _ in range(3))
    own = torch.empty(blocks, rows, rows, dtype=torch.bool, device=seen.device)
    goes_on = torch.empty(blocks, rows, dtype=torch.bool, device=seen.device)
    _prepare[blocks,](
        seen.view(torch.uint8), integers, sequences, nodes, tokens, places,
        own.view(torch.uint8), goes_on.view(torch.uint8),
        extent, seen.stride(0), seen.stride(1), sequences.shape[2],
        ROWS=rows, WIDE=triton.next_power_of_2(extent),
    )  # fmt: skip
    return nodes, tokens, places, own, goes_on


@prepare.register_fake
def _(seen: torch.Tensor, integers: torch.Tensor, sequences: Any, blocks: int, extent: int) -> Any:
    rows = seen.shape[1]
    numbers = [integers.new_empty(blocks, rows) for _ in range(3)]
    return *numbers, seen.new_empty(blocks, rows, rows), seen.new_empty(blocks, rows)


@torch.library.custom_op("caption_serve::penalise", mutates_args=("scores",))
def penalise(
    scores: torch.Tensor,
    sequences: torch.Tensor,
    integers: torch.Tensor,
    floats: torch.Tensor,
    width: int,
    end: int,
    ngram: int,
) -> None:
    """`processors.process` but for the temperature, in place; scores [rows, vocabulary]."""
    _penalise[len(scores),](
        scores, sequences, integers, floats, scores.shape[1], sequences.shape[2], width, end,
        LARGEST=ngram, WIDE=triton.next_power_of_2(width),
    )  # fmt: skip


@penalise.register_fake
def _(scores: Any, sequences: Any, integers: Any, floats: Any, width: int, end: int, ngram: int) -> None:
    return None


@torch.library.custom_op(
    "caption_serve::advance", mutates_args=("sequences", "finished_sequences", "integers", "floats")
)
def advance(
    values: torch.Tensor,
    tokens: torch.Tensor,
    sequences: torch.Tensor,
    finished_sequences: torch.Tensor,
    integers: torch.Tensor,
    floats: torch.Tensor,
    goes_on: torch.Tensor,
    width: int,
    end: int,
) -> torch.Tensor:
    """`Search` from the most likely tokens on, values and tokens [rows, candidates]; returns parents [blocks, rows]."""
    blocks, rows = goes_on.shape
    parents = integers.new_empty(blocks, rows)
    _advance[blocks,](
        values, tokens, sequences, finished_sequences, integers, floats, goes_on.view(torch.uint8), parents,
        values.shape[1], sequences.shape[2], width, end,
        ROWS=rows, K=triton.next_power_of_2(values.shape[1]), WIDE=triton.next_power_of_2(width),
    )  # fmt: skip
    return parents


@advance.register_fake
def _(
    values: Any,
    tokens: Any,
    sequences: Any,
    finished_sequences: Any,
    integers: torch.Tensor,
    floats: Any,
    goes_on: torch.Tensor,
    width: int,
    end: int,
) -> torch.Tensor:
    return integers.new_empty(goes_on.shape)


@torch.library.custom_op("caption_serve::commit", mutates_args=("seen", "integers", "report"))
def commit(
    seen: torch.Tensor,
    integers: torch.Tensor,
    nodes: torch.Tensor,
    own: torch.Tensor,
    goes_on: torch.Tensor,
    parents: torch.Tensor,
    report: torch.Tensor,
    extent: int,
) -> None:
    """What `Stepper` does when every row has its token."""
    blocks, rows = nodes.shape
    _commit[blocks,](
        seen.view(torch.uint8), integers, nodes, own.view(torch.uint8), goes_on.view(torch.uint8), parents, report,
        extent, seen.stride(0), seen.stride(1), ROWS=rows, WIDE=triton.next_power_of_2(extent),
    )  # fmt: skip


@commit.register_fake
def _(seen: Any, integers: Any, nodes: Any, own: Any, goes_on: Any, parents: Any, report: Any, extent: int) -> None:
    return None


class TritonSteps:
    """The Steps protocol over these kernels."""

    def __init__(self, batch: Batch, end: int) -> None:
        self._batch, self._end = batch, end

    def covers(self, shape: Shape) -> bool:
        """Whether one program can hold a block of this shape."""
        rows = self._batch.rows
        few = rows * shape.needs.candidates <= MOST_CANDIDATES and rows * shape.extent <= MOST_SEEN
        return few and rows & (rows - 1) == 0

    def prepare(self, shape: Shape) -> Prepared:
        state = self._batch.state
        return Prepared(*prepare(self._batch.tree.seen, state.integers, state.sequences, shape.blocks, shape.extent))

    def advance(self, shape: Shape, logits: torch.Tensor, prepared: Prepared) -> torch.Tensor:
        state, needs = self._batch.state, shape.needs
        scores = torch.log_softmax(logits, -1)
        plain = (state.view(shape.blocks)["beams"] == 0).reshape(-1, 1)
        scores = torch.where(plain, logits, scores)  # without beams transformers works on the logits as they are
        width = min(needs.max_length, state.positions)
        penalise(scores, state.sequences, state.integers, state.floats, width, self._end, max(needs.ngram, 1))
        values, tokens = scores.topk(needs.candidates)
        return advance(
            values, tokens, state.sequences, state.finished_sequences, state.integers, state.floats,
            prepared.goes_on, width, self._end,
        )  # fmt: skip

    def commit(self, shape: Shape, prepared: Prepared, parents: torch.Tensor, report: torch.Tensor) -> None:
        commit(
            self._batch.tree.seen, self._batch.state.integers, prepared.nodes, prepared.own, prepared.goes_on,
            parents, report, shape.extent,
        )  # fmt: skip
