"""The handle client's patience and bounds, over a handle that answers by a rule; no cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.serve.exceptions import BackPressureError

from serve_app import retry as module
from serve_app.deployments.client import CaptionClient
from serve_app.errors import GenerationFailed, InvalidImage, Overloaded


class RuleHandle:
    """`handle.caption.remote(image, options)` answered by `rule(image, tries so far)`."""

    def __init__(self, rule: Callable[[Any, int], dict[str, Any] | Exception]) -> None:
        self.caption = self
        self.tries: dict[Any, int] = {}
        self.running = self.most = 0
        self.background = False
        self._rule = rule

    async def remote(self, image: Any, options: dict[str, Any], background: bool = False) -> dict[str, Any]:
        self.background = background
        self.tries[image] = self.tries.get(image, 0) + 1
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        answer = self._rule(image, self.tries[image])
        if isinstance(answer, Exception):
            raise answer
        return answer


def wrapped(error: Exception) -> Exception:
    """As an error arrives from a replica."""
    return RayTaskError("caption", "traceback", error).as_instanceof_cause()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.01)


async def test_every_image_is_answered_once_with_bounded_concurrency() -> None:
    handle = RuleHandle(lambda image, _: {"caption": f"image {image}"})
    done = [item async for item in CaptionClient(handle, concurrency=5).captions(range(40))]  # type: ignore[arg-type]
    assert sorted(item.index for item in done) == list(range(40))
    assert all(item.body == {"caption": f"image {item.index}"} for item in done)
    assert handle.most == 5


async def test_full_service_is_asked_again_and_a_bad_image_is_not() -> None:
    def rule(image: Any, tries: int) -> dict[str, Any] | Exception:
        if image == 1:
            return wrapped(InvalidImage("The image is empty."))
        if tries == 1:
            return wrapped(Overloaded("Full.", 0.01))
        return BackPressureError(1, 1) if tries == 2 else {"caption": "a cat"}

    handle = RuleHandle(rule)
    done = {item.index: item async for item in CaptionClient(handle).captions([0, 1, 2])}  # type: ignore[arg-type]
    assert [done[index].body for index in (0, 2)] == [{"caption": "a cat"}] * 2
    assert isinstance(done[1].error, InvalidImage)
    assert handle.tries == {0: 3, 1: 1, 2: 3}


async def test_tries_are_bounded_and_the_last_error_is_told() -> None:
    handle = RuleHandle(lambda *_: wrapped(ValueError("a bug")))
    with pytest.raises(GenerationFailed):
        await CaptionClient(handle, max_retries=3).caption("image")  # type: ignore[arg-type]
    assert handle.tries == {"image": 4}


async def test_leaving_the_loop_cancels_what_runs() -> None:
    handle = RuleHandle(lambda image, _: {"caption": str(image)})
    stream = CaptionClient(handle, concurrency=4).captions(range(100))  # type: ignore[arg-type]
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    assert len(handle.tries) <= 5


@pytest.mark.parametrize("background", [False, True])
async def test_background_work_says_so(background: bool) -> None:
    handle = RuleHandle(lambda *_: {"caption": "a cat"})
    await CaptionClient(handle, background=background).caption(0)  # type: ignore[arg-type]
    assert handle.background is background
