"""Settings that Gradio reads from the environment; imported before it."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

FILES = Path(tempfile.mkdtemp(prefix="caption-serve-page-", dir=os.environ.get("GRADIO_TEMP_DIR")))
"""What visitors upload and download, for as long as this process lives."""

os.environ["GRADIO_TEMP_DIR"] = str(FILES)
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
atexit.register(shutil.rmtree, FILES, ignore_errors=True)


@asynccontextmanager
async def lifespan(_: object) -> AsyncIterator[None]:
    """Clears the files away when the server ends, which a signal does without `atexit`."""
    await asyncio.to_thread(FILES.mkdir, exist_ok=True)
    yield
    await asyncio.to_thread(shutil.rmtree, FILES, ignore_errors=True)
