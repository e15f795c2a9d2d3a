"""Encoded images, kept by digest."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from serve_app.engine.pixels import Normalizer
from serve_app.types import Pixels

IMAGES_AT_ONCE = 8
"""Images of one pass: a batch of more says in between that it goes on."""


class ImageStates:
    """The vision encoder's output for each image, [1 + patches, width]; the least recently used goes first.

    For one thread only.
    """

    def __init__(self, encode: Callable[[torch.Tensor], torch.Tensor], normalize: Normalizer, max_bytes: int) -> None:
        """`encode`: float32 [n, 3, height, width] → [n, 1 + patches, width]."""
        self._encode = encode
        self._normalize = normalize
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.encoded = 0
        """Images encoded so far."""

    def __call__(self, images: Sequence[Pixels], alive: Callable[[], None]) -> dict[str, torch.Tensor]:
        """The images' states by digest; those not known are encoded together, `alive` is called between passes."""
        wanted = {image.digest: image for image in images}
        new = [image for digest, image in wanted.items() if digest not in self._known]
        found = {digest: self._known[digest] for digest in wanted if digest in self._known}
        for start in range(0, len(new), IMAGES_AT_ONCE):
            alive()
            some = new[start : start + IMAGES_AT_ONCE]
            states = self._encode(torch.cat([self._normalize(image) for image in some]))
            self.encoded += len(some)
            found.update({image.digest: row.clone() for image, row in zip(some, states, strict=True)})
        for digest in wanted:
            self._keep(digest, found[digest])
        return found

    def _keep(self, digest: str, states: torch.Tensor) -> None:
        if digest in self._known:
            self._known.move_to_end(digest)
            return
        self._known[digest] = states
        self._bytes += states.nbytes
        while self._bytes > self._max_bytes and len(self._known) > 1:
            _, dropped = self._known.popitem(last=False)
            self._bytes -= dropped.nbytes


def encoder_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The vision encoder of a BLIP model in the model's own number format."""

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = model.vision_model(pixel_values=pixels.to(model.dtype)).last_hidden_state
        return states

    return encode
