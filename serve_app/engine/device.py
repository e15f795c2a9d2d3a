"""What the engine asks of a device beyond tensors: handing data over without waiting, and graphs."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, Protocol

import torch

logger = logging.getLogger(__name__)


class Reading(Protocol):
    """A tensor on its way to the host."""

    def wait(self) -> torch.Tensor:
        """The tensor on the host, once everything that was launched before it was asked for is done."""
        ...


class Device(Protocol):
    """Where the engine's tensors live."""

    place: torch.device
    captures: bool
    """Whether steps are captured as graphs, for padded shapes; else they run at once, with the shapes they have."""
    failures: int
    """Captures that failed."""
    ahead: int
    """Steps that may be launched before the first one's report has been read."""

    def use(self) -> None:
        """Makes it the calling thread's own."""
        ...

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the host on the device; does not wait for the copy."""
        ...

    def read(self, tensor: torch.Tensor) -> Reading:
        """Starts to copy a tensor to the host."""
        ...

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """Runs `run`, and returns what runs it again: `run` itself if a capture fails. Raises what `run` raises."""
        ...

    def drop(self) -> None:
        """All that was captured is gone; what comes next begins with memory of its own."""
        ...

    def recover(self) -> None:
        """Gives unused memory back after the device had too little."""
        ...


class _Here:
    """A tensor that is on the host already."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def wait(self) -> torch.Tensor:
        return self._tensor


class Cpu:
    """Everything at once, nothing ahead."""

    place = torch.device("cpu")
    captures = False
    failures = 0
    ahead = 0

    def use(self) -> None:
        pass

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def read(self, tensor: torch.Tensor) -> Reading:
        return _Here(tensor)

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        run()
        return run

    def drop(self) -> None:
        pass

    def recover(self) -> None:
        pass


class _Copy:
    """A tensor that is being copied into pinned memory."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._host.copy_(tensor, non_blocking=True)
        self._event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._event.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> torch.Tensor:
        self._event.synchronize()
        return self._host


class Cuda:
    """One NVIDIA GPU, with its own stream, on which everything runs."""

    captures = True
    ahead = 1

    def __init__(self, device: torch.device) -> None:
        self.place = device
        self.failures = 0
        self._stream: Any = None
        self._pool: Any = None

    def use(self) -> None:
        torch.cuda.set_device(self.place)
        # cuDNN's attention builds a plan for each new shape and thread, tens of milliseconds each.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if self._stream is None:
            torch.cuda.synchronize()  # weights and caches come from another stream
            self._stream = torch.cuda.Stream(self.place)  # type: ignore[no-untyped-call]
        torch.cuda.set_stream(self._stream)

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.pin_memory().to(self.place, non_blocking=True)

    def read(self, tensor: torch.Tensor) -> Reading:
        return _Copy(tensor)

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        run()  # libraries allocate their workspaces on a stream's first run, which must not happen in a capture
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process, a matcher's for one, may go on with CUDA meanwhile.
        capturing = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        try:
            with _without_gc(), capturing:
                run()
        except RuntimeError as error:
            self.failures += 1
            logger.warning("A step of this shape runs without a graph, whose capture failed: %s", error)
            return run
        self._pool = graph.pool()
        return graph.replay

    def drop(self) -> None:
        self._pool = None

    def recover(self) -> None:
        torch.cuda.empty_cache()


@contextmanager
def _without_gc() -> Any:
    """A CUDA graph or event that is collected during a capture would break it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def device_of(device: torch.device) -> Device:
    """The Device of a CPU or a GPU; one without a number is the current one."""
    if device.type != "cuda":
        return Cpu()
    return Cuda(torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index))
