"""Pixels onto the device."""

from __future__ import annotations

import torch
from PIL import Image

from serve_app.engine.device import Device, device_of
from serve_app.errors import WrongImageSize
from serve_app.types import ModelInfo, Pixels


class Normalizer:
    """uint8 images to normalised ones, scaled and shifted on the device."""

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        info: ModelInfo,
        device: Device | None = None,
        resizes: bool = False,
    ) -> None:
        """`resizes`: images of another size, such as another model's, are brought to this one's, not refused."""
        self._resizes = resizes
        self._device = device or device_of(torch.device(info.device))
        self._size = (info.image_height, info.image_width)
        self._mean = torch.tensor(mean, device=self._device.place).view(3, 1, 1)
        self._std = torch.tensor(std, device=self._device.place).view(3, 1, 1)

    def check(self, pixels: Pixels) -> None:
        """Raises `WrongImageSize`."""
        if not self._resizes and (pixels.height, pixels.width) != self._size:
            height, width = self._size
            raise WrongImageSize(
                f"The model takes images of {height}×{width} pixels, not {pixels.height}×{pixels.width}."
            )

    @property
    def bytes(self) -> int:
        """Of an image."""
        height, width = self._size
        return 3 * height * width

    def __call__(self, pixels: Pixels) -> torch.Tensor:
        """Returns float32 [1, 3, height, width]. Raises `WrongImageSize`."""
        return self.scaled(self.uploaded(pixels))

    def uploaded(self, pixels: Pixels) -> torch.Tensor:
        """uint8 [bytes] on the device. Raises `WrongImageSize`."""
        self.check(pixels)
        return self._device.upload(torch.frombuffer(self._sized(pixels), dtype=torch.uint8))

    def _sized(self, pixels: Pixels) -> bytearray:
        height, width = self._size
        if (pixels.height, pixels.width) == self._size:
            return bytearray(pixels.data)
        image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
        return bytearray(image.resize((width, height), Image.Resampling.BICUBIC).tobytes())

    def scaled(self, flat: torch.Tensor) -> torch.Tensor:
        """uint8 [images * bytes] → float32 [images, 3, height, width]."""
        images = flat.view(-1, *self._size, 3).permute(0, 3, 1, 2).float() / 255  # [images, 3, H, W]
        return (images - self._mean) / self._std
