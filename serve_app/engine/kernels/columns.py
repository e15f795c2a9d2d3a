"""Columns of the packed row state, as constants of the kernels."""

from __future__ import annotations

import triton.language as tl

from serve_app.engine import sampling, state

HOPELESS = tl.constexpr(state.HOPELESS)
LOW, USED = tl.constexpr(-1e30), tl.constexpr(-3e38)
"""Stand-ins for what has no chance and what was taken, so that a search for the largest takes everything once."""
LENGTH = tl.constexpr(state.INTEGERS.index("length"))
PROMPT = tl.constexpr(state.INTEGERS.index("prompt"))
FED = tl.constexpr(state.INTEGERS.index("fed"))
ACTIVE = tl.constexpr(state.INTEGERS.index("active"))
BEAMS = tl.constexpr(state.INTEGERS.index("beams"))
SAMPLE = tl.constexpr(state.INTEGERS.index("sample"))
EARLY = tl.constexpr(state.INTEGERS.index("early"))
NEVER = tl.constexpr(state.INTEGERS.index("never"))
MAX_LENGTH = tl.constexpr(state.INTEGERS.index("max_length"))
MIN_LENGTH = tl.constexpr(state.INTEGERS.index("min_length"))
NGRAM = tl.constexpr(state.INTEGERS.index("ngram"))
EDGE = tl.constexpr(state.INTEGERS.index("edge"))
KEEP = tl.constexpr(state.INTEGERS.index("keep"))
STREAM = tl.constexpr(state.INTEGERS.index("stream"))
ENDED = tl.constexpr(state.INTEGERS.index("ended"))
IMPROVABLE = tl.constexpr(state.INTEGERS.index("improvable"))
IS_FINISHED = tl.constexpr(state.INTEGERS.index("is_finished"))
FINISHED_LENGTH = tl.constexpr(state.INTEGERS.index("finished_length"))
PENALTY = tl.constexpr(state.FLOATS.index("penalty"))
TEMPERATURE = tl.constexpr(state.FLOATS.index("temperature"))
TAIL = tl.constexpr(state.FLOATS.index("tail"))
LENGTH_PENALTY = tl.constexpr(state.FLOATS.index("length_penalty"))
RUNNING = tl.constexpr(state.FLOATS.index("running"))
FINISHED = tl.constexpr(state.FLOATS.index("finished"))
N_INTEGERS, N_FLOATS = tl.constexpr(len(state.INTEGERS)), tl.constexpr(len(state.FLOATS))
FIRST, SECOND, GOLDEN = (tl.constexpr(value) for value in (sampling.FIRST, sampling.SECOND, sampling.GOLDEN))
TOKEN_BITS = tl.constexpr(sampling.TOKEN_BITS)
