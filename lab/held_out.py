"""The committed held-out scenes: JPEG files and their truth in one JSON for each of two worlds.

`grid`: scenes of the grid that training also uses, with seeds of a stream that it never uses. `unseen`: scenes by
composers that training never uses. `python -m lab.held_out` draws them again.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image

from lab.composers import draw_grid, draw_held_out
from lab.scenes import HELD_OUT_SEED, Scene

DIRECTORY = Path(__file__).parent / "held_out"
COUNT = 200
SAMPLE = DIRECTORY / "0026.jpg"
"""The scene that the service shows itself with."""

DRAWS: Mapping[str, Callable[[tuple[int, int]], tuple[Image.Image, Scene]]] = {
    "grid": draw_grid,
    "unseen": draw_held_out,
}
DIRECTORIES = {"grid": DIRECTORY, "unseen": Path(__file__).parent / "held_out_unseen"}


def write(world: str, count: int) -> None:
    directory = DIRECTORIES[world]
    directory.mkdir(parents=True, exist_ok=True)
    truth = {}
    for index in range(count):
        image, scene = DRAWS[world]((HELD_OUT_SEED, index))
        name = f"{index:04d}.jpg"
        image.save(directory / name, quality=90, subsampling=0)
        truth[name] = scene.as_dict()
    (directory / "truth.json").write_text(json.dumps(truth, separators=(",", ":")), encoding="utf-8")


def read(world: str = "grid") -> Iterator[tuple[Path, Scene]]:
    directory = DIRECTORIES[world]
    truth = json.loads((directory / "truth.json").read_text(encoding="utf-8"))
    for name, scene in truth.items():
        yield directory / name, Scene.from_dict(scene)


def scenes_of(count: int, world: str = "grid") -> Iterable[tuple[bytes, Scene]]:
    """The committed held-out scenes of a world, and beyond them further ones of their stream."""
    for number, (file, scene) in enumerate(read(world)):
        if number < count:
            yield file.read_bytes(), scene
    for index in range(COUNT, count):
        image, scene = DRAWS[world]((HELD_OUT_SEED, index))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield buffer.getvalue(), scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", choices=list(DRAWS), default=list(DRAWS))
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args()
    for world in args.worlds:
        write(world, args.count)


if __name__ == "__main__":
    main()
