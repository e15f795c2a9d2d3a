"""The choice of tokens: what `processors`, `sampling` and `search` do, in two kernels.

Between the logits and `advance` stand PyTorch's `log_softmax` and `topk`. One program takes one row (`penalise`) or one
block of rows (`advance`).
"""

from __future__ import annotations

import triton
import triton.language as tl

from serve_app.engine.kernels.columns import (
    BEAMS,
    EARLY,
    EDGE,
    ENDED,
    FINISHED,
    FINISHED_LENGTH,
    FIRST,
    GOLDEN,
    HOPELESS,
    IMPROVABLE,
    IS_FINISHED,
    KEEP,
    LENGTH,
    LENGTH_PENALTY,
    LOW,
    MAX_LENGTH,
    MIN_LENGTH,
    N_FLOATS,
    N_INTEGERS,
    NEVER,
    NGRAM,
    PENALTY,
    PROMPT,
    RUNNING,
    SAMPLE,
    SECOND,
    STREAM,
    TAIL,
    TEMPERATURE,
    TOKEN_BITS,
    USED,
)


@triton.jit
def _penalise(  # type: ignore[no-untyped-def]
    scores, sequences, integers, floats, vocabulary, positions, width, end, LARGEST: tl.constexpr, WIDE: tl.constexpr
):
    """One row: repetition penalty, n-gram bans and the least length, in place.

    scores [rows, vocabulary]; sequences [rows, positions], of which `width` are looked at; LARGEST n-gram.
    """
    row = tl.program_id(0).to(tl.int64)
    ints, reals = integers + row * N_INTEGERS, floats + row * N_FLOATS
    place = tl.arange(0, WIDE)
    length, ngram = tl.load(ints + LENGTH + place * 0), tl.load(ints + NGRAM + place * 0)
    penalty = tl.load(reals + PENALTY)
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
    too_short = (place == 0) & (length < tl.load(ints + MIN_LENGTH + place * 0))
    tl.store(scores + row * vocabulary + end + place, float("-inf"), mask=too_short)


@triton.jit
def _logical(x, shift: tl.constexpr):  # type: ignore[no-untyped-def]
    return (x >> shift) & ((1 << (64 - shift)) - 1)


@triton.jit
def _mixed(x):  # type: ignore[no-untyped-def]
    """SplitMix64's finalizer, as in `sampling`."""
    x = (x ^ _logical(x, 30)) * FIRST
    x = (x ^ _logical(x, 27)) * SECOND
    return x ^ _logical(x, 31)


@triton.jit
def _both(mask, switch):  # type: ignore[no-untyped-def]
    """A mask, or nothing of it; the interpreter makes no mask of one and a scalar by `&`."""
    return tl.where(switch, mask, mask != mask)


@triton.jit
def _floored(x):  # type: ignore[no-untyped-def]
    return tl.where(x > LOW, x, LOW)


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
def _order(values, totals, tokens, beam, sample, stream, length):  # type: ignore[no-untyped-def]
    """By what candidates are ranked: their totals, or p / e if a row samples, as `Search._order` says."""
    most = tl.max(tl.max(totals, 1), 0)
    weights = tl.exp(totals - tl.where(most == float("-inf"), 0.0, most))
    chances = tl.where(beam, weights / tl.sum(tl.sum(weights, 1), 0), _share(values))
    bits = _mixed(stream[:, None] + ((length << TOKEN_BITS)[:, None] + tokens) * GOLDEN)
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
    ints, reals = integers + (first + row) * N_INTEGERS, floats + (first + row) * N_FLOATS
    goes = tl.load(goes_on + first + row) != 0
    length, maximum = tl.load(ints + LENGTH), tl.load(ints + MAX_LENGTH)
    running = tl.load(reals + RUNNING)
    n = tl.max(tl.load(ints + BEAMS), 0)
    beam = n > 0

    place = tl.arange(0, K)
    inside = place < candidates
    at = (first + row)[:, None] * candidates + place[None, :]
    v = tl.load(values + at, mask=inside[None, :], other=float("-inf"))
    t = tl.load(tokens + at, mask=inside[None, :], other=0)
    v = v / tl.load(reals + TEMPERATURE)[:, None]
    edge = tl.sum(tl.where(place[None, :] == tl.load(ints + EDGE)[:, None], v, 0.0), 1)
    v = tl.where(v < edge[:, None], float("-inf"), v)
    below = tl.cumsum(_share(v), 1, reverse=True)
    drop = (below <= tl.load(reals + TAIL)[:, None]) & (place[None, :] >= tl.load(ints + KEEP)[:, None])
    v = tl.where(drop, float("-inf"), v)
    totals = v + running[:, None]
    sample, stream = tl.load(ints + SAMPLE), tl.load(ints + STREAM)
    order = _order(v, totals, t, beam, sample, stream, length)
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
        flat = tl.where(this, USED, flat)
    now, limit = tl.max(length, 0), tl.max(maximum, 0)
    prompt = tl.max(tl.load(ints + PROMPT), 0)
    exponent = tl.max(tl.load(reals + LENGTH_PENALTY), 0)
    real = rank < 2 * n
    hits = tl.where(now + 1 >= limit, rank >= 0, token == end)
    open_scores = tl.where(real, chosen + tl.where(hits, HOPELESS, 0.0), float("-inf"))
    left = _floored(open_scores)
    next_running = tl.full([ROWS], float("-inf"), tl.float32)
    next_parent, next_token = row, tl.zeros([ROWS], tl.int64)
    for i in range(ROWS):
        this = rank == tl.argmax(left, 0)
        next_running = tl.where(row == i, _at(open_scores, this), next_running)
        next_parent = tl.where(row == i, _at(parent, this), next_parent)
        next_token = tl.where(row == i, _at(token, this), next_token)
        left = tl.where(this, USED, left)

    # The best finished sequences, old and new.
    is_finished, early = tl.load(ints + IS_FINISHED), tl.max(tl.load(ints + EARLY), 0) != 0
    improvable = tl.max(tl.load(ints + IMPROVABLE), 0) != 0
    ends = hits & (rank < n)
    full = (tl.min(is_finished, 0) != 0) & early
    closed = tl.where(full, HOPELESS, 0.0) + tl.where(improvable, 0.0, HOPELESS)
    scores = chosen / _power(now + 1 - prompt, exponent) + closed + tl.where(ends, 0.0, HOPELESS)
    scores = tl.where(real, scores, float("-inf"))
    finished, finished_length = tl.load(reals + FINISHED), tl.load(ints + FINISHED_LENGTH)
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
        old = tl.where(_both(mine, keeps), USED, old)
        new = tl.where(keeps, new, tl.where(theirs, USED, new))

    # Whether the group can still gain.
    never = (tl.max(tl.load(ints + NEVER), 0) != 0) & (exponent > 0)
    longest = tl.where(never, limit, now + 1)
    best_running = _at(next_running, row == 0) / _power(longest - prompt, exponent)
    own = row < n
    worst = tl.min(tl.where(own, next_finished, float("inf")), 0)
    worst = tl.where(next_is_finished != 0, worst, HOPELESS)
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
    tl.store(ints + LENGTH, length + 1, mask=goes)
    tl.store(ints + ENDED, tl.where(beam, over.to(tl.int64), alone_ended.to(tl.int64)), mask=goes)
    tl.store(ints + IMPROVABLE, tl.where(row >= 0, hope.to(tl.int64), 0), mask=moves)
    tl.store(ints + IS_FINISHED, next_is_finished, mask=moves)
    tl.store(ints + FINISHED_LENGTH, next_length, mask=moves)
    tl.store(reals + RUNNING, next_running, mask=moves)
    tl.store(reals + FINISHED, next_finished, mask=moves)
