"""The held-out scenes in `lab/held_out/`: JPEG files and their truth in one JSON.

`python -m lab.held_out` draws them again; their seeds are of a stream that training never uses.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from lab.scenes import HELD_OUT_SEED, Scene, draw_scene

DIRECTORY = Path(__file__).parent / "held_out"
COUNT = 200
SAMPLE = DIRECTORY / "0026.jpg"
"""The scene that the service shows itself with."""


def write(directory: Path, count: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    truth = {}
    for index in range(count):
        image, scene = draw_scene((HELD_OUT_SEED, index))
        name = f"{index:04d}.jpg"
        image.save(directory / name, quality=90, subsampling=0)
        truth[name] = scene.as_dict()
    (directory / "truth.json").write_text(json.dumps(truth, separators=(",", ":")), encoding="utf-8")


def read(directory: Path = DIRECTORY) -> Iterator[tuple[Path, Scene]]:
    truth = json.loads((directory / "truth.json").read_text(encoding="utf-8"))
    for name, scene in truth.items():
        yield directory / name, Scene.from_dict(scene)


def scenes_of(count: int) -> Iterable[tuple[bytes, Scene]]:
    """The committed held-out scenes, and beyond them further ones of their stream."""
    for number, (file, scene) in enumerate(read()):
        if number < count:
            yield file.read_bytes(), scene
    for index in range(COUNT, count):
        image, scene = draw_scene((HELD_OUT_SEED, index))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        yield buffer.getvalue(), scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DIRECTORY)
    parser.add_argument("--count", type=int, default=COUNT)
    args = parser.parse_args()
    write(args.out, args.count)


if __name__ == "__main__":
    main()
