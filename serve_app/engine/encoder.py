"""An image's way into the cache: pixels, patch states, keys and values of every layer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from serve_app.engine.decoder import Decoder
from serve_app.engine.device import Device
from serve_app.engine.image_cache import ImageCache
from serve_app.engine.pixels import Normalizer
from serve_app.engine.vision import VisionEncoder
from serve_app.types import Pixels


class ImageEncoder:
    """Encodes one image at a time into a slot of the cache; on a GPU as one graph."""

    def __init__(
        self, normalize: Normalizer, vision: VisionEncoder, decoder: Decoder, images: ImageCache, device: Device
    ) -> None:
        self.normalize = normalize
        self._vision, self._decoder, self._images, self._device = vision, decoder, images, device
        # What the graph reads, at fixed addresses.
        self._pixels = torch.zeros(normalize.bytes, dtype=torch.uint8, device=device.place)
        self._slot = torch.zeros(1, dtype=torch.int64, device=device.place)
        self._replay: Callable[[], None] | None = None

    def warm_up(self) -> None:
        """On a GPU, captures the graph; for a cache without images, since it writes to the first slot."""
        if self._device.captures:
            self._replay = self._device.capture(self._run)

    def __call__(self, pixels: Pixels, slot: int) -> None:
        """Raises `WrongImageSize`, and torch's `OutOfMemoryError`."""
        self._pixels.copy_(self.normalize.uploaded(pixels), non_blocking=True)
        self._slot.copy_(self._device.upload(torch.tensor([slot])), non_blocking=True)
        if self._replay is None:
            self._run()
        else:
            self._replay()

    @torch.inference_mode()
    def _run(self) -> None:
        states = self._vision(self.normalize.scaled(self._pixels))  # [patches, width]
        patches = slice(self._images.patches)
        for layer, (key, value) in enumerate(self._decoder.seen_of(states)):
            self._images.keys[layer][:, :, patches].index_copy_(0, self._slot, key[None])
            self._images.values[layer][:, :, patches].index_copy_(0, self._slot, value[None])
