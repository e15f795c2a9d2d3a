"""What the decoder needs of an image, computed once and shared by everything that asks about it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from serve_app.engine.memory import rounded, zeros
from serve_app.errors import ModelError


@dataclass(eq=False, slots=True)
class EncodedImage:
    """An image's place in the cache."""

    digest: str
    slot: int
    references: int = 0
    encoded: bool = False
    """Whether its keys and values are in the slot."""


class ImageCache:
    """Encoded images by digest: bounded in bytes, reference-counted, the longest unused goes first.

    For each layer `states` [slots, 2, heads, ≥ patches, head_size], which hold the cross-attention keys and values
    of an image in its slot, and zeros behind its patches. One thread uses it; so an image that is asked for twice is
    encoded once.
    """

    def __init__(
        self, layers: int, image_shape: tuple[int, int, int], max_bytes: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """`image_shape`: heads, patches, head_size. Raises `ModelError` when not even one image fits."""
        heads, self.patches, size = image_shape
        stored = self.patches
        if device.type == "cpu" and dtype != torch.float32:
            # oneDNN's half-precision products take up to twice as long if rows are not aligned.
            unit = 64 if stored > 256 else 16
            stored = -(-stored // unit) * unit
        self.image_bytes = 2 * layers * heads * stored * size * dtype.itemsize
        self.slots = max_bytes // self.image_bytes
        if self.slots == 0:
            raise ModelError(
                f"max_image_cache_bytes is {max_bytes} and one encoded image of this model takes {self.image_bytes}."
            )
        self.states = [zeros((self.slots, 2, heads, stored, size), dtype, device) for _ in range(layers)]
        self._images: OrderedDict[str, EncodedImage] = OrderedDict()
        self._free = list(reversed(range(self.slots)))
        self.hits = 0
        self.misses = 0

    @property
    def bytes(self) -> int:
        """Of the images that are held."""
        return len(self._images) * self.image_bytes

    def __contains__(self, digest: str) -> bool:
        return digest in self._images

    def has_room(self) -> bool:
        """Whether one more image fits, if need be in the place of an unused one."""
        return bool(self._free) or any(image.references == 0 for image in self._images.values())

    def acquire(self, digest: str) -> EncodedImage:
        """Returns the image with one more reference; a new one is not `encoded` yet. Needs `has_room`."""
        image = self._images.get(digest)
        if image is not None:
            self.hits += 1
        else:
            self.misses += 1
            image = self._images[digest] = EncodedImage(digest, self._take_slot())
        image.references += 1
        self._images.move_to_end(digest)
        return image

    def release(self, image: EncodedImage) -> None:
        """Gives a reference back. An image that could not be encoded goes with its last one."""
        image.references -= 1
        if not image.references and not image.encoded:
            self._drop(image)

    def write(self, layer: int, slots: torch.Tensor, states: torch.Tensor) -> None:
        """Keys and values of images [images, 2, heads, patches, head_size] into `slots` int64 [images]."""
        kept = self.states[layer]
        kept[:, :, :, : self.patches][slots] = rounded(states, kept.dtype)

    def clear(self) -> None:
        """Forgets every image that nobody uses."""
        for image in [image for image in self._images.values() if image.references == 0]:
            self._drop(image)

    def check_integrity(self, references: dict[str, int]) -> None:
        """Compares the counted references with those that the caller knows of, and slots with images."""
        counted = {digest: image.references for digest, image in self._images.items() if image.references}
        assert counted == references, f"references {counted}, expected {references}"
        used = [image.slot for image in self._images.values()]
        assert sorted(used + self._free) == list(range(self.slots)), "a slot is lost or taken twice"

    def _take_slot(self) -> int:
        if not self._free:
            self._drop(next(image for image in self._images.values() if image.references == 0))
        return self._free.pop()

    def _drop(self, image: EncodedImage) -> None:
        del self._images[image.digest]
        self._free.append(image.slot)
