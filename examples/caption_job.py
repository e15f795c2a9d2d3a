"""Captions images from a Ray job through the running service's handle.

    RAY_AUTH_MODE=token ray job submit --working-dir . -- python examples/caption_job.py lab/held_out/0026.jpg

Ray guards the clusters that it starts with a token, which it keeps in ~/.ray/auth_token. The job runs in
the service's cluster; images travel as bytes, PIL images or uint8 arrays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import ray
from PIL import Image
from ray import serve


def main(files: list[str]) -> None:
    ray.init(address="auto", log_to_driver=False)
    captions = serve.get_app_handle("captions")
    for file in files:
        picture = Image.open(file).convert("RGB")
        forms = {"bytes": Path(file).read_bytes(), "pil": picture, "array": np.asarray(picture)}
        # All three at once: the answers are futures until `.result()`.
        pending = {name: captions.caption.remote(image, {"detail": "medium"}) for name, image in forms.items()}
        for name, answer in pending.items():
            print(json.dumps({"file": file, "form": name, "caption": answer.result(timeout_s=300)["caption"]}))


if __name__ == "__main__":
    main(sys.argv[1:])
