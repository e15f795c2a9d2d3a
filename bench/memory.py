"""How much memory images and bodies take in an ingress replica, against what its settings plan.

    python -m bench.memory
    python -m bench.memory --service    # all at once through a running service: four images and three chats

Each figure is the growth of the largest resident size (`VmHWM`) of a process over what it had before: of one of its
own, or of the ingress replica.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from PIL import Image

from serve_app.http import create_app
from serve_app.instant import INFO, InstantGenerator
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline
from serve_app.service import CaptionService, images

SIDE = 7071
"""Pixels of each side: 50 million, the default limit."""
CHAT_BYTES = 57_000_000
"""Of images in one chat, 76 MB as base64."""


def encoded(kind: str) -> bytes:
    """A picture of one colour at the pixel limit."""
    mode, suffix, options = {
        "JPEG": ("RGB", "JPEG", {}),
        "PNG RGB": ("RGB", "PNG", {}),
        "PNG RGBA": ("RGBA", "PNG", {}),
        "PNG palette": ("P", "PNG", {}),
        "GIF": ("P", "GIF", {}),
        "BMP": ("L", "BMP", {}),
        "TIFF float": ("F", "TIFF", {"compression": "tiff_deflate"}),
        "WebP lossless": ("RGB", "WEBP", {"lossless": True}),
        "AVIF": ("RGB", "AVIF", {"speed": 10}),
    }[kind]
    color = {"P": 3, "F": 0.5, "L": 128}.get(mode, (90, 120, 150, 255)[: len(mode)])
    file = io.BytesIO()
    Image.new(mode, (SIDE, SIDE), color).save(file, suffix, **options)
    return file.getvalue()


KINDS = ("JPEG", "PNG RGB", "PNG RGBA", "PNG palette", "GIF", "TIFF float", "WebP lossless", "AVIF")


def peak_bytes(process: int | str = "self") -> int:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(status["VmHWM"].split()[0]) * 1024


def one(data: bytes) -> None:
    images.read(data, Limits(), INFO)


def four(data: bytes) -> None:
    """Four captions at once through the whole service."""
    service = CaptionService(CaptionPipeline(InstantGenerator()), Limits())

    async def run() -> None:
        await asyncio.gather(*(service.caption(data, {"strategy": "basic"}) for _ in range(4)))

    asyncio.run(run())


def chats(_: bytes) -> None:
    """Three chats at once, each with as many bytes of base64 as a request may have."""
    service = CaptionService(CaptionPipeline(InstantGenerator()), Limits())
    body = chat()
    transport = httpx.ASGITransport(create_app(service))
    reset()

    async def run() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", timeout=120) as client:
            answers = await asyncio.gather(*(client.post("/v1/chat/completions", content=body) for _ in range(3)))
        assert {answer.status_code for answer in answers} <= {200, 503}, answers[0].text

    asyncio.run(run())


def chat() -> bytes:
    image = io.BytesIO()
    Image.effect_noise((4000, 3500), 90).save(image, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(image.getvalue()).decode()
    parts = [{"type": "image_url", "image_url": {"url": uri}}] * max(1, CHAT_BYTES // len(image.getvalue()))
    return json.dumps({"model": "instant", "messages": [{"role": "user", "content": parts}]}).encode()


def through_a_service() -> None:
    """Four images at the pixel limit and three chats at the size limit, sent at once to one ingress replica."""
    from bench import faults  # with Ray, which the other parts do without
    from bench.http import INSTANT, Service

    image, body = encoded("WebP lossless"), chat()
    json_type = {"content-type": "application/json"}
    with tempfile.TemporaryDirectory() as scratch, Service(Path(scratch), faults.settings(), INSTANT, 1) as service:
        (ingress,) = service.head.processes("ray::ServeReplica:captions:Ingress")

        def send(number: int) -> int:
            with httpx.Client(base_url=service.url, timeout=300) as client:
                if number < 4:
                    return client.post(f"/v1/captions?strategy=basic&seed={number}", content=image).status_code
                return client.post("/v1/chat/completions", content=body, headers=json_type).status_code

        before = reset(ingress.pid)
        with ThreadPoolExecutor(7) as threads:
            statuses = Counter(threads.map(send, range(7)))
        peak = peak_bytes(ingress.pid)
    limits = Limits()
    planned = limits.decode_memory_bytes + limits.body_memory_bytes
    print(
        f"four images and three chats at once: the ingress replica grew by {(peak - before) / 1e6:.0f} MB, from "
        f"{before / 1e6:.0f} to {peak / 1e6:.0f} MB; planned {planned / 1e6:.0f} MB; answers {dict(statuses)}"
    )


def reset(process: int | str = "self") -> int:
    """Forgets the largest size so far, and gives the present one."""
    global _before
    Path(f"/proc/{process}/clear_refs").write_text("5", encoding="utf-8")
    _before = peak_bytes(process)
    return _before


_before = 0
WORK: Mapping[str, Callable[[bytes], None]] = {"one": one, "four": four, "chats": chats}


def child(work: str, kind: str) -> None:
    data = encoded(kind) if kind else b""
    one(encoded_small())  # what the first picture alone needs
    reset()
    WORK[work](data)
    print(json.dumps({"bytes": peak_bytes() - _before, "file": len(data)}))


def encoded_small() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    return file.getvalue()


def measured(work: str, kind: str = "") -> tuple[int, int]:
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # as configs/ set it
    command = [sys.executable, "-m", "bench.memory", "--child", work, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    return found["bytes"], found["file"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--child", nargs=2, metavar=("WORK", "KIND"), help=argparse.SUPPRESS)
    parser.add_argument("--service", action="store_true", help="through a running service")
    given = parser.parse_args()
    if given.service:
        through_a_service()
        return
    if given.child:
        child(*given.child)
        return
    limits = Limits()
    print(
        f"planned: {limits.decode_memory_bytes / 1e6:.0f} MB for decoding, "
        f"{limits.body_memory_bytes / 1e6:.0f} MB for bodies"
    )
    print(f"{'image of 50 million pixels':26} {'file':>10} {'one':>9} {'four at once':>13} {'a pixel':>9}")
    for kind in KINDS:
        alone, size = measured("one", kind)
        together, _ = measured("four", kind)
        print(
            f"{kind:26} {size / 1e3:7.1f} kB {alone / 1e6:6.0f} MB {together / 1e6:10.0f} MB {alone / SIDE**2:7.1f} B"
        )
    print(f"three chats with 76 MB of base64: {measured('chats')[0] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
