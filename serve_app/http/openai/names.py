"""The names under which clients find what captions: the service as a whole, and each of several captioners."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.errors import ModelUnknown
from serve_app.service.captions import CaptionService
from serve_app.steps import SEVERAL

ALIAS = "caption-serve"
"""Names what the service captions with, whatever it is."""
ANY = "*"


@dataclass(frozen=True, slots=True)
class Served:
    """A name, and the captioners that caption under it; () for all."""

    name: str
    use: tuple[str, ...] = ()


async def served(service: CaptionService) -> list[Served]:
    """All names; the first one is that of answers."""
    names = [name for name in service.limits.served_names if name != ANY]
    whole = [Served(name) for name in names or [await service.model()]]
    return whole + [Served(name, (name,)) for name in service.captioners if name not in names]


async def served_as(service: CaptionService, asked: str) -> Served:
    """What the answer is called and made by. Raises `ModelUnknown` if another model is asked for."""
    known = await served(service)
    parts = tuple(asked.split(SEVERAL))
    if len(parts) > 1 and set(parts) <= set(service.captioners):
        return Served(asked, parts)
    found = next((each for each in known if each.name == asked), None)
    if found is not None:
        return found
    if ANY in service.limits.served_names:
        return Served(asked)
    if asked != ALIAS:
        others = f"; its captioners are {', '.join(service.captioners)}" if service.captioners else ""
        raise ModelUnknown(f"The model {asked[:100]!r} is not served here; this is {known[0].name!r}{others}.")
    return known[0]
