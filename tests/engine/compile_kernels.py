"""Compiles every kernel for GPUs that are not there, at the shapes of BLIP-large, and prints how many.

A script of its own, since tests define the kernels for Triton's interpreter.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))

from serve_app.engine.kernels import search_kernels, step_kernels, triton_kernels

LONG, REAL, FLAG = "*i64", "*fp32", "*u8"
LONGS = ("nodes", "slots", "integers", "sequences", "finished_sequences", "tokens", "places", "parents", "report")
KINDS = {
    **dict.fromkeys(LONGS, LONG),
    **dict.fromkeys(("own", "seen", "goes_on"), FLAG),
    **dict.fromkeys(("scores", "floats"), REAL),
    **dict.fromkeys(("eps", "largest"), "fp32"),
}  # fmt: skip
"""Types of arguments by name; what is not here has the model's dtype if it is one of `STATES`, or is an integer."""
STATES = frozenset(
    ("qkv", "keys", "values", "out", "query", "x", "residual", "weight", "bias", "scale", "shift", "normed")
)
ATTENTION = {"ROWS": 8, "PADDED": 16, "SIZE": 64, "WIDE": 64, "TILE": 64}
LINEAR = {"ROWS": 16, "COLUMNS": 32, "TILE": 64, "GELU": 1}


def compiled(kernel: Any, constants: dict[str, int], capability: int, dtype: str, kept: str | None = None) -> None:
    """`kept`: the dtype of keys and values, if it is another one."""
    signature = {}
    for parameter in kernel.params:
        name = parameter.name
        of_state = f"*{dtype}" if name in STATES else "i32"
        if kept is not None and name in ("keys", "values"):
            of_state = f"*{kept}"
        signature[name] = "constexpr" if name in constants else KINDS.get(name, of_state)
    if kernel is search_kernels._advance:
        signature["values"] = REAL
    names = kernel.arg_names
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    triton.compile(source, target=GPUTarget("cuda", capability, 32))


def main() -> None:
    count = 0
    for dtype in ("bf16", "fp32"):
        compiled(triton_kernels._tree_attention, {**ATTENTION, "FP8": 0}, 90, dtype)
        compiled(triton_kernels._image_attention, {**ATTENTION, "PICTURES": 1}, 90, dtype)
        count += 2
    compiled(triton_kernels._tree_attention, {**ATTENTION, "FP8": 1}, 90, "bf16", "fp8e4nv")
    compiled(triton_kernels._image_attention, {**ATTENTION, "PICTURES": 1}, 90, "bf16", "fp8e4nv")
    for rows in (16, 64):
        compiled(triton_kernels._norm_linear, {**LINEAR, "ROWS": rows}, 90, "bf16")
        count += 2
    compiled(triton_kernels._add_norm, {"WIDE": 1024}, 90, "bf16")
    compiled(step_kernels._prepare, {"ROWS": 8, "WIDE": 256}, 90, "bf16")
    compiled(step_kernels._commit, {"ROWS": 8, "WIDE": 256}, 90, "bf16")
    compiled(search_kernels._penalise, {"LARGEST": 4, "WIDE": 256}, 90, "bf16")
    compiled(search_kernels._advance, {"ROWS": 8, "K": 64, "WIDE": 256}, 90, "bf16")
    print(count + 5)


if __name__ == "__main__":
    main()
