"""Tensors with one entry for each running group, kept dense as groups come and go."""

from __future__ import annotations

from typing import Any

import torch


class SlotTensors:
    """Named tensors [slots, …] that grow together; the groups in use are always the first `count` slots.

    A group that leaves is replaced by the last one, so a step works on plain slices and never gathers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._tensors: dict[str, torch.Tensor] = {}
        self._fills: dict[str, Any] = {}
        self._capacity = 4
        self.count = 0

    def add(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, fill: float = 0) -> None:
        """Declares [slots, *shape]; new groups find `fill` in it."""
        self._fills[name] = fill
        self._tensors[name] = self._new((self._capacity, *shape), dtype, fill)

    def __getitem__(self, name: str) -> torch.Tensor:
        """[count, …], a view."""
        return self._tensors[name][: self.count]

    def open(self) -> int:
        """Takes a slot at the end, filled with what was declared."""
        if self.count == self._capacity:
            self._capacity *= 2
            for name, tensor in self._tensors.items():
                grown = self._new((self._capacity, *tensor.shape[1:]), tensor.dtype, self._fills[name])
                grown[: self.count] = tensor
                self._tensors[name] = grown
        self.count += 1
        for name, tensor in self._tensors.items():
            tensor[self.count - 1] = self._fills[name]
        return self.count - 1

    def close(self, slot: int) -> None:
        """Frees a slot; the last group moves into it."""
        assert 0 <= slot < self.count, f"slot {slot} of {self.count}"
        self.count -= 1
        if slot != self.count:
            for tensor in self._tensors.values():
                tensor[slot] = tensor[self.count]

    def widen(self, name: str, size: int) -> None:
        """Grows the last dimension to at least `size`; the new columns repeat the first one."""
        tensor = self._tensors[name]
        if tensor.shape[-1] < size:
            grown = self._new((*tensor.shape[:-1], size), tensor.dtype, self._fills[name])
            grown[...] = tensor[..., :1]
            grown[..., : tensor.shape[-1]] = tensor
            self._tensors[name] = grown

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype, fill: float) -> torch.Tensor:
        return torch.full(shape, fill, dtype=dtype, device=self._device)
