"""Image intake: every format and mode that a user has, and every broken one."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from serve_app.errors import ImageTooLarge, InvalidImage, Overloaded, RequestError, UnsupportedImage
from serve_app.limits import Limits
from serve_app.service import images
from serve_app.service.budget import Budget
from serve_app.service.images import read
from serve_app.types import ModelInfo, Pixels
from tests.pictures import encoded, hostile, picture
from tests.unit.fakes import INFO

LIMITS = Limits()
LEFT, RIGHT = (4, 1), (4, 6)  # row, column within 8×8


def at(pixels: Pixels, place: tuple[int, int]) -> tuple[int, ...]:
    array = np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, pixels.width, 3)
    return tuple(int(v) for v in array[place])


def is_red(colour: tuple[int, ...]) -> bool:
    return colour[0] > 180 and colour[1] < 80 and colour[2] < 80


def is_blue(colour: tuple[int, ...]) -> bool:
    return colour[2] > 180 and colour[0] < 80 and colour[1] < 80


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_keeps_its_colours_and_comes_at_the_model_size(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    pixels = read(encoded(picture(), kind), LIMITS, INFO)
    assert (pixels.height, pixels.width, len(pixels.data)) == (8, 8, 192)
    assert is_red(at(pixels, LEFT))
    assert is_blue(at(pixels, RIGHT))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "CMYK"), ("PNG", "P"), ("TIFF", "CMYK"), ("PNG", "RGBA")])
def test_other_modes_become_the_same_picture(kind: str, mode: str) -> None:
    pixels = read(encoded(picture(mode), kind), LIMITS, INFO)
    assert is_red(at(pixels, LEFT))
    assert is_blue(at(pixels, RIGHT))


def test_transparent_parts_are_white() -> None:
    image = picture("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 64))
    assert at(read(encoded(image, "PNG"), LIMITS, INFO), LEFT) == (255, 255, 255)


def test_transparent_palette_is_white() -> None:
    image = picture("P")
    red = image.getpixel((0, 0))
    assert at(read(encoded(image, "PNG", transparency=red), LIMITS, INFO), LEFT) == (255, 255, 255)


def test_16_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    pixels = read(encoded(Image.fromarray(ramp), "PNG"), LIMITS, INFO)
    middle = at(pixels, (4, 0))[0]
    assert 100 < middle < 160


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_turns_the_picture(kind: str, orientation: int) -> None:
    image = picture(size=(64, 32))
    image.paste("lime", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    upright = (
        ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB").resize((8, 8), Image.Resampling.BICUBIC)
    )
    got = np.frombuffer(read(data, LIMITS, INFO).data, np.uint8).reshape(8, 8, 3).astype(int)
    assert np.abs(got - np.asarray(upright).astype(int)).max() <= 8


def test_large_wide_and_transparent_pictures_stay_within_memory() -> None:
    """A flat 16-bit PNG of 100 kB took more than a gigabyte of floats."""
    side = 5000
    wide = encoded(Image.fromarray(np.full((side, side), 30_000, np.uint16)), "PNG")
    clear = encoded(Image.new("RGBA", (side, side), (255, 0, 0, 128)), "PNG")
    code = (
        "import sys; from serve_app.service.images import read; from serve_app.limits import Limits; "
        "from serve_app.types import ModelInfo; "
        "read(sys.stdin.buffer.read(), Limits(), ModelInfo('m', 8, 8, 512, '', '')); "
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    # Not getrusage: its peak begins with what the parent had when it forked.
    for data in (wide, clear):
        done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
        assert int(done.stdout) * 1024 < 450_000_000


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "L"), ("PNG", "I;16"), ("TIFF", "F"),
     ("TIFF", "CMYK"), ("WEBP", "RGB")],
)  # fmt: skip
def test_a_large_picture_is_shrunk_in_strips_to_the_same_picture(
    monkeypatch: pytest.MonkeyPatch, kind: str, mode: str
) -> None:
    across = np.linspace(0, 255, 5200, dtype=np.float32).round()
    values = np.stack([np.broadcast_to(across, (3500, 5200)), np.broadcast_to(across[:3500, None], (3500, 5200))])
    if mode in ("I;16", "F"):
        scale = 257 if mode == "I;16" else 1
        picture = Image.fromarray((values[0] * scale).astype(np.uint16 if mode == "I;16" else np.float32))
    else:
        bands = [values[0], values[1], 255 - values[0], values[1]][: {"L": 1, "RGBA": 4}.get(mode, 3)]
        plain = Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8).squeeze())
        picture = plain if mode in ("L", "RGB", "RGBA") else plain.convert(mode)
    model = ModelInfo("m", 96, 128, 512, "", "")
    data = encoded(picture, kind, **({"compression": "tiff_deflate"} if kind == "TIFF" else {}))
    strips = np.frombuffer(read(data, LIMITS, model).data, np.uint8).astype(int)
    monkeypatch.setattr(images, "LARGE_PIXELS", 10**9)
    whole = np.frombuffer(read(data, LIMITS, model).data, np.uint8).astype(int)
    assert np.abs(strips - whole).mean() < 1
    assert np.abs(strips - whole).max() <= 6


def test_images_wait_for_memory_and_a_full_budget_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four WebPs of 2 kB at the pixel limit took 3 GB at once."""
    budget, limits = Budget(), Limits(decode_memory_bytes=1_000_000)
    data = encoded(Image.new("RGB", (400, 400)), "PNG")
    with budget.hold(900_000, 1_000_000):
        monkeypatch.setattr(images, "PATIENCE_S", 0.05)
        with pytest.raises(Overloaded):
            read(data, limits, INFO, budget)
        monkeypatch.setattr(images, "PATIENCE_S", 10)
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(read, data, limits, INFO, budget)
            time.sleep(0.05)
            assert not waiting.done()
            budget.give_back(900_000)
            assert waiting.result(5).width == INFO.image_width
            budget.take(900_000, 1_000_000)
    assert budget.used == 0
    read(encoded(Image.new("RGB", (1000, 1000)), "PNG"), limits, INFO, budget)  # alone, whatever its size
    with pytest.raises(InvalidImage):
        read(data[:200], limits, INFO, budget)
    assert budget.used == 0


def test_a_photograph_with_a_second_picture_is_read() -> None:
    """Phones put a depth map behind the picture (MPO); its format was in no table of the memory that it takes."""
    first, second = picture(), picture().rotate(90)
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert is_red(at(read(data, LIMITS, INFO), LEFT))


def test_first_frame_of_an_animation_is_read() -> None:
    data = encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 64), "green")])
    assert is_red(at(read(data, LIMITS, INFO), LEFT))


def test_bytes_pil_image_and_array_are_the_same_image() -> None:
    image = picture()
    forms = (encoded(image, "PNG"), image, np.asarray(image))
    assert len({read(form, LIMITS, INFO).digest for form in forms}) == 1


def test_another_picture_has_another_digest() -> None:
    assert read(picture(), LIMITS, INFO).digest != read(picture().rotate(90), LIMITS, INFO).digest


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros(4, np.uint8)]
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InvalidImage):
        read(array, LIMITS, INFO)


def test_other_objects_are_refused() -> None:
    with pytest.raises(InvalidImage, match="not str"):
        read("photo.jpg", LIMITS, INFO)


def test_byte_and_pixel_caps_hold_at_their_limits() -> None:
    data = encoded(picture(), "PNG")
    read(data, Limits(max_image_bytes=len(data), max_image_pixels=64 * 64), INFO)
    with pytest.raises(ImageTooLarge):
        read(data, Limits(max_image_bytes=len(data) - 1), INFO)
    with pytest.raises(ImageTooLarge, match="64×64"):
        read(data, Limits(max_image_pixels=64 * 64 - 1), INFO)
    with pytest.raises(ImageTooLarge):
        read(picture(), Limits(max_image_pixels=64 * 64 - 1), INFO)


def test_too_many_pixels_are_told_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ImageTooLarge):
        read(encoded(Image.new("1", (8000, 8000)), "PNG"), LIMITS, INFO)


def test_declared_extension_is_not_believed() -> None:
    with pytest.raises(UnsupportedImage):
        read(b"<html>", LIMITS, INFO)


STATUS = {InvalidImage: 400, ImageTooLarge: 413, UnsupportedImage: 415}


@pytest.mark.parametrize("name", hostile())
def test_hostile_files_give_pixels_or_one_clear_sentence(name: str) -> None:
    data, wanted = hostile()[name]
    try:
        read(data, LIMITS, INFO)
        status = 200
    except RequestError as error:
        status = STATUS[type(error)]
        assert error.message.endswith(".")
        assert "Traceback" not in error.message
    assert status in wanted, name


def test_every_prefix_of_a_jpeg_is_an_image_or_an_error_of_ours() -> None:
    data = encoded(picture(), "JPEG")
    for length in range(0, len(data), 7):
        try:
            read(io.BytesIO(data[:length]).getvalue(), LIMITS, INFO)
        except RequestError as error:
            assert isinstance(error, tuple(STATUS))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        chunk(b"tEXt", b"c\0" + b"x" * 3_000_000),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(3_000_000))),
        chunk(b"iCCP", b"profile\0\0no profile"),
        chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 900_000)) * 80,
    ],
    ids=["zTXt", "iTXt", "tEXt", "large profile", "broken profile", "many texts"],
)
def test_texts_and_profiles_fail_no_png(extra: bytes, behind: bool) -> None:
    """Workflows that generators write and profiles of cameras were "Decompressed data too large"."""
    plain = encoded(picture(), "PNG")
    place = plain.index(b"IEND") - 4 if behind else plain.index(b"IDAT") - 4
    assert read(plain[:place] + extra + plain[place:], LIMITS, INFO).data == read(plain, LIMITS, INFO).data


def test_a_png_that_is_cut_among_its_chunks_is_still_told() -> None:
    plain = encoded(picture(), "PNG")
    for end in range(8, plain.index(b"IDAT") + 20, 3):
        with pytest.raises(RequestError):
            read(plain[:end], LIMITS, INFO)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "YCbCr", "HSV", "F", "I", "I;16"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_client_sends_a_pil_image_as_the_service_would_read_it(mode: str, orientation: int) -> None:
    """Orientation was lost, and CMYK and LAB were refused, though the same file as a path was right."""
    from serve_app.client.images import named_bytes

    image = picture("L").convert("I").convert("I;16") if mode == "I;16" else _in_mode(mode)
    exif = image.getexif()
    exif[274] = orientation
    image.info["exif"] = exif.tobytes()
    _, data = named_bytes(image)
    sent, near = read(data, LIMITS, INFO), read(image, LIMITS, INFO)
    difference = np.frombuffer(sent.data, np.uint8).astype(int) - np.frombuffer(near.data, np.uint8)
    assert np.abs(difference).max() <= (6 if mode == "HSV" else 0)


def _in_mode(mode: str) -> Image.Image:
    if mode == "LAB":
        return Image.merge("LAB", [picture("L"), *[Image.new("L", picture().size, 140)] * 2])
    return picture("L").convert(mode) if mode in ("F", "I") else picture().convert(mode)
