"""Captions all images of a directory from a Ray job, beside the requests that the service has to answer anyway.

    RAY_AUTH_MODE=token ray job submit --working-dir . -- python examples/caption_many.py lab/held_out captions.jsonl

The job runs in the service's cluster and needs caption-serve there, as the service itself does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

import ray
from ray import serve

from serve_app.deployments.client import CaptionClient


async def caption_all(files: list[Path], output: Path, concurrency: int, detail: str) -> int:
    """Writes one line of JSON for each file; returns the number of files that failed."""
    client = CaptionClient(serve.get_app_handle("captions"), concurrency=concurrency)
    failed = 0
    with output.open("w", encoding="utf-8") as lines:
        # A generator: a file is read when its turn comes.
        async for done in client.captions((file.read_bytes() for file in files), {"detail": detail}):
            row = {"file": str(files[done.index])}
            if done.body is None:
                failed += 1
                row["error"] = str(done.error)
            else:
                row["caption"] = done.body["caption"]
            lines.write(json.dumps(row) + "\n")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--detail", choices=("low", "medium", "high"), default="low")
    args = parser.parse_args()
    ray.init(address="auto", log_to_driver=False)
    files = sorted(file for file in args.directory.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    failed = asyncio.run(caption_all(files, args.output, args.concurrency, args.detail))
    print(json.dumps({"files": len(files), "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
