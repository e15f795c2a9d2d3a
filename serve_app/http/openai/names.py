"""The names under which clients find the model."""

from __future__ import annotations

from serve_app.errors import ModelUnknown
from serve_app.service.captions import CaptionService

ALIAS = "caption-serve"
"""Names the served model, whichever it is."""
ANY = "*"


async def served_names(service: CaptionService) -> list[str]:
    """The names, the first one that of answers."""
    names = [name for name in service.limits.served_names if name != ANY]
    return names or [(await service.info()).name]


async def served_name(service: CaptionService, asked: str) -> str:
    """The name that the answer carries. Raises `ModelUnknown` if another model is asked for."""
    names = await served_names(service)
    if asked in names or ANY in service.limits.served_names:
        return asked
    if asked != ALIAS:
        raise ModelUnknown(f"The model {asked[:100]!r} is not served here; this is {names[0]!r}.")
    return names[0]
