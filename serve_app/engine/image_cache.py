"""What the decoder needs of an image, computed once and shared by everything that asks about it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from serve_app.errors import GenerationFailed


@dataclass(slots=True)
class EncodedImage:
    """Cross-attention keys and values of one image, one tensor [heads, patches, head_size] for each layer."""

    digest: str
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    references: int = 0

    @property
    def bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class ImageCache:
    """Encoded images by digest: bounded in bytes, reference-counted, the longest unused goes first.

    One thread uses it; so an image that is asked for twice is encoded once.
    """

    def __init__(self, max_bytes: int, image_bytes: int) -> None:
        """`image_bytes`: size of any encoded image of the model."""
        if image_bytes > max_bytes:
            raise GenerationFailed(
                f"One encoded image takes {image_bytes} bytes and the image cache may hold {max_bytes}."
            )
        self._max_bytes, self._image_bytes = max_bytes, image_bytes
        self._images: OrderedDict[str, EncodedImage] = OrderedDict()
        self.hits = 0
        self.misses = 0

    @property
    def bytes(self) -> int:
        return len(self._images) * self._image_bytes

    def __contains__(self, digest: str) -> bool:
        return digest in self._images

    def has_room(self) -> bool:
        """Whether one more image fits, if need be in the place of an unused one."""
        fits = (len(self._images) + 1) * self._image_bytes <= self._max_bytes
        return fits or any(image.references == 0 for image in self._images.values())

    def acquire(self, digest: str, encode: Callable[[], EncodedImage]) -> EncodedImage:
        """Returns the image with one more reference, encoded now unless it is known. Needs `has_room`."""
        image = self._images.get(digest)
        if image is not None:
            self.hits += 1
        else:
            self.misses += 1
            self._make_room()
            image = self._images[digest] = encode()
        image.references += 1
        self._images.move_to_end(digest)
        return image

    def release(self, image: EncodedImage) -> None:
        image.references -= 1

    def clear(self) -> None:
        """Drops every image that nobody uses."""
        for digest in [digest for digest, image in self._images.items() if image.references == 0]:
            del self._images[digest]

    def check_integrity(self, references: dict[str, int]) -> None:
        """Compares the counted references with those that the caller knows of; sizes with the bound."""
        counted = {digest: image.references for digest, image in self._images.items() if image.references}
        assert counted == references, f"references {counted}, expected {references}"
        assert self.bytes <= self._max_bytes, f"{self.bytes} of {self._max_bytes} bytes"
        assert all(image.bytes == self._image_bytes for image in self._images.values()), "an image of another size"

    def _make_room(self) -> None:
        while (len(self._images) + 1) * self._image_bytes > self._max_bytes:
            unused = next(digest for digest, image in self._images.items() if image.references == 0)
            del self._images[unused]
