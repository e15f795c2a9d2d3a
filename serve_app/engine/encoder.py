"""An image's way into the cache: pixels, patch states, keys and values of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from serve_app.engine.decoder import Decoder
from serve_app.engine.device import Device
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.pixels import Normalizer
from serve_app.engine.vision import VisionEncoder
from serve_app.types import Pixels

SIZES = (8, 4, 2, 1)
"""Images of one pass on a GPU: each size is a graph."""


class ImageEncoder:
    """Encodes images into slots of the cache; on a GPU several in a pass, as one graph."""

    def __init__(
        self, normalize: Normalizer, vision: VisionEncoder, decoder: Decoder, images: ImageCache, device: Device
    ) -> None:
        self.normalize = normalize
        self._vision, self._decoder, self._images, self._device = vision, decoder, images, device
        self._sizes = [size for size in SIZES if size <= images.slots] if device.captures else [1]
        self.at_once = self._sizes[0]
        """Images that are best encoded together."""
        # What the graphs read, at fixed addresses.
        self._pixels = torch.zeros(self.at_once * normalize.bytes, dtype=torch.uint8, device=device.place)
        self._slots = torch.zeros(self.at_once, dtype=torch.int64, device=device.place)
        self._replays: dict[int, Callable[[], None]] = {}

    def warm_up(self) -> None:
        """On a GPU, captures the graphs; for a cache without images, since it writes to its slots."""
        self._slots.copy_(self._device.upload(torch.arange(self.at_once)))
        for size in self._sizes if self._device.captures else ():
            self._replays[size] = self._device.capture(lambda size=size: self._run(size))  # type: ignore[misc]

    def __call__(self, pictures: Sequence[Pixels], slots: Sequence[int]) -> None:
        """Raises `WrongImageSize`, and torch's `OutOfMemoryError`."""
        done = 0
        for size in self._sizes:
            while len(pictures) - done >= size:
                self._encode(pictures[done : done + size], slots[done : done + size])
                done += size

    def _encode(self, pictures: Sequence[Pixels], slots: Sequence[int]) -> None:
        size, length = len(pictures), self.normalize.bytes
        for place, picture in enumerate(pictures):
            pixels = self._pixels[place * length : (place + 1) * length]
            pixels.copy_(self.normalize.uploaded(picture), non_blocking=True)
        self._slots[:size].copy_(self._device.upload(torch.tensor(slots)), non_blocking=True)
        replay = self._replays.get(size)
        if replay is None:
            self._run(size)
        else:
            replay()

    @torch.inference_mode()
    def _run(self, size: int) -> None:
        pixels, slots = self._pixels[: size * self.normalize.bytes], self._slots[:size]
        states = self._vision(self.normalize.scaled(pixels))  # [images, patches, width]
        for layer, seen in enumerate(self._decoder.seen_of(states)):
            self._images.write(layer, slots, seen)
