"""A GPU that is only pretended: the engine's whole life on tensors without data, where no GPU is at hand.

Every tensor has the shape, dtype and device that it would have on a GPU (torch's `FakeTensorMode`), and everything that
is launched is counted. What would make the host wait for the device, or depends on data, is counted or refused: inside
a captured step nothing of the kind is allowed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from serve_app.engine.device import Reading

WAITS = frozenset(
    ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default", "aten.equal.default")
)
"""Operations whose result the host needs before it can go on."""
COPIES = frozenset(("aten._to_copy.default", "aten.copy_.default"))
FREE = frozenset(
    (
        "aten.empty.memory_format",
        "aten.empty_like.default",
        "aten.empty_strided.default",
        "aten.new_empty.default",
        "aten.detach.default",
        "aten._unsafe_view.default",
        "aten.lift_fresh.default",
        "aten.alias.default",
        "prim.device.default",
    )
)
"""Operations that launch nothing."""


ALIGNED = 512
"""CUDA's caching allocator gives memory in multiples of this many bytes."""


class NotOnTheDevice(AssertionError):
    """A captured step would wait for the host, or touch its tensors."""


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what is launched and what is allocated, and notes what would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0
        """Of all tensors on the device, now."""
        self.limit: int | None = None
        """Bytes from which on memory runs out."""
        self.peak = 0
        """Most of `bytes` so far; sizes are rounded up as CUDA's allocator does it."""
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.capturing = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        tensors = list(_tensors((args, kwargs or {}, result)))
        on_device = any(each.device.type == "cuda" for each in tensors)
        self._count([each for each in _tensors(result) if each.device.type == "cuda"])
        if not on_device or name in FREE or (getattr(func, "is_view", False) and _shares(result, args)):
            return result
        across = name in COPIES and any(each.device.type == "cpu" and each.dim() for each in tensors)
        masked = name in ("aten.index.Tensor", "aten.index_put_.default") and any(
            each.dtype in (torch.bool, torch.uint8) for each in _tensors(args[1])
        )
        if name in WAITS or across or masked:
            self.waits[name] += 1
            if self.capturing:
                raise NotOnTheDevice(f"{name} in a captured step")
        self.launches[name] += 1
        return result

    def _count(self, tensors: Sequence[torch.Tensor]) -> None:
        for key in [key for key, (storage, _) in self._storages.items() if storage.expired()]:  # type: ignore[no-untyped-call]
            self.bytes -= self._storages.pop(key)[1]
        for tensor in tensors:
            storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            if storage.cdata not in self._storages:
                size = -(-tensor.untyped_storage().nbytes() // ALIGNED) * ALIGNED
                if self.limit is not None and self.bytes + size > self.limit:
                    raise torch.OutOfMemoryError(f"{size} bytes beside {self.bytes} of {self.limit}")
                self._storages[storage.cdata] = storage, size
                self.bytes += size
        self.peak = max(self.peak, self.bytes)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, **named: Any
) -> torch.Tensor:
    """The fused kernel that a GPU takes, whose result lies in memory row by row."""
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:3], key.shape[2])
    found = torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, attn_mask, False, **named)
    context: torch.Tensor = found[0]
    return context


def _copied(tensor: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    copied: torch.Tensor = torch.ops.aten.copy_(tensor, source, non_blocking)
    return copied


_OPERATIONS: dict[Any, Any] = {
    F.scaled_dot_product_attention: _attention,
    torch.Tensor.__invert__: torch.ops.aten.bitwise_not,
    torch.Tensor.contiguous: lambda tensor: tensor if tensor.is_contiguous() else tensor.clone(),
    torch.Tensor.copy_: _copied,
}


class _AsOperations(TorchFunctionMode):
    """Subscripts and copies as operations: without CUDA torch's own refuse tensors that say they are on a GPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__:
            return _subscript(*args)
        if func is torch.Tensor.__setitem__:
            tensor, index, value = args
            view, tensors = _basic(tensor, index)
            if any(each is not None for each in tensors):
                value = value if isinstance(value, torch.Tensor) else torch.full((), value, device=tensor.device)
                return torch.ops.aten.index_put_(view, tensors, value.to(view.dtype))
            return torch.ops.aten.copy_(view, value) if isinstance(value, torch.Tensor) else view.fill_(value)
        if (operation := _OPERATIONS.get(func)) is not None:
            return operation(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _subscript(tensor: torch.Tensor, index: Any) -> torch.Tensor:
    view, tensors = _basic(tensor, index)
    return torch.ops.aten.index(view, tensors) if any(each is not None for each in tensors) else view


def _basic(tensor: torch.Tensor, index: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """The tensor after the integers, slices, None and ellipsis of a subscript; its tensors, one for each dimension."""
    parts = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis not in [part for part in parts if not isinstance(part, torch.Tensor)]:
        parts.append(Ellipsis)
    at = next(place for place, part in enumerate(parts) if part is Ellipsis)
    missing = tensor.dim() - sum(part is not None and part is not Ellipsis for part in parts)
    parts[at : at + 1] = [slice(None)] * missing
    tensors: list[torch.Tensor | None] = []
    for part in parts:
        place = len(tensors)
        if part is None:
            tensor = tensor.unsqueeze(place)
        elif isinstance(part, slice):
            if part != slice(None):
                tensor = torch.ops.aten.slice(tensor, place, part.start, part.stop, part.step or 1)
        elif isinstance(part, int):
            tensor = tensor.select(place, part)
            continue
        tensors.append(part if isinstance(part, torch.Tensor) else None)
    return tensor, tensors


def _shares(result: Any, args: Any) -> bool:
    """Whether all of a result lies in the memory of an argument: `reshape` and `to` copy only sometimes."""
    known = {tensor.untyped_storage()._cdata for tensor in _tensors(args)}
    return all(tensor.untyped_storage()._cdata in known for tensor in _tensors(result))


def _tensors(found: Any) -> Iterator[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, Mapping):
        for each in found.values():
            yield from _tensors(each)
    elif isinstance(found, list | tuple):
        for each in found:
            yield from _tensors(each)


class Rehearsal:
    """The Device protocol over pretended tensors; use it inside `rehearsed()`."""

    captures = True
    failures = 0
    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self.place = device
        self.watch = _Watch()
        self.says = 0
        """What every report and result says: 0 that all go on, 1 that all ended."""
        self.waits = 0
        """Times that the host waited for the device."""
        self.captured: list[Counter[str]] = []
        """Launches of each captured step."""
        self.replays = 0

    @contextmanager
    def rehearsed(self) -> Iterator[None]:
        with FakeTensorMode(allow_non_fake_inputs=True), self.watch, _AsOperations():
            yield

    def use(self) -> None:
        pass

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=self.place)

    def read(self, tensor: torch.Tensor) -> Reading:
        return _Pretended(self, tensor.shape)

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        before = self.watch.launches.copy()
        self.watch.capturing = True
        try:
            run()
        finally:
            self.watch.capturing = False
        self.captured.append(self.watch.launches - before)

        def replay() -> None:
            self.replays += 1

        return replay

    def drop(self) -> None:
        pass

    def recover(self) -> None:
        pass


class _Pretended:
    def __init__(self, device: Rehearsal, shape: torch.Size) -> None:
        self._device, self._shape, self._says = device, shape, device.says

    def wait(self) -> torch.Tensor:
        self._device.waits += 1
        return _Numbers(self._shape, self._says)  # type: ignore[return-value]


class _Numbers:
    """A tensor's `tolist` without a tensor: no real one can be made while all are pretended."""

    def __init__(self, shape: torch.Size, value: int) -> None:
        self._shape, self._value = shape, value

    def tolist(self) -> Any:
        def filled(sizes: tuple[int, ...]) -> Any:
            return [filled(sizes[1:]) for _ in range(sizes[0])] if sizes else self._value

        return filled(tuple(self._shape))
