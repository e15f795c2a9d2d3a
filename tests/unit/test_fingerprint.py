"""What made a caption: the word that says it, and the version of the pipeline in it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace

import pytest

from serve_app.engine.checkpoint import digest, resolve
from serve_app.pipeline import CaptionPipeline, Presets, Support, fingerprint
from serve_app.pipeline.fingerprint import PIPELINE_VERSION
from serve_app.types import GenerationParameters, Match, ModelInfo, Pixels
from tests.unit.fakes import INFO, PIXELS, RuleGenerator, options
from tests.unit.test_grounded import BrokenMatcher, RuleMatcher

MODEL = replace(INFO, revision="11111111aa")
MATCHER = replace(INFO, name="m", revision="22222222bb")


class NamedMatcher(RuleMatcher):
    async def info(self) -> ModelInfo:
        return MATCHER


class LostMatcher(BrokenMatcher):
    async def info(self) -> ModelInfo:
        raise AssertionError("a matcher that is lost is asked nothing more")


def made_by(**changes: object) -> str:
    given: dict[str, object] = {
        "strategy": "grounded", "captioners": [MODEL], "matcher": MATCHER, "support": Support.of(),
        "presets": Presets(), "polisher": None,
    }  # fmt: skip
    return fingerprint(**{**given, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"captioners": [replace(MODEL, revision="33333333")]}, 1),
        ({"captioners": [replace(MODEL, revision="")]}, 1),
        ({"matcher": replace(MATCHER, revision="33333333")}, 2),
        ({"support": Support.of().with_floor(0.6)}, 3),
        ({"presets": replace(Presets(), variant=GenerationParameters(num_beams=2))}, 3),
        ({"polisher": "gpt"}, 3),
    ],
)
def test_each_cause_has_its_part(changes: dict[str, object], part: int) -> None:
    plain, other = made_by().split("."), made_by(**changes).split(".")
    assert [number for number, pair in enumerate(zip(plain, other, strict=True)) if pair[0] != pair[1]] == [part]
    assert plain[:3] == [str(PIPELINE_VERSION), "11111111", "22222222"]


def test_what_a_strategy_does_not_use_does_not_count() -> None:
    classic = made_by(strategy="classic")
    assert classic == made_by(strategy="classic", matcher=None, support=Support.of().with_floor(0.6))
    assert classic.split(".")[2] == "none"
    assert made_by(captioners=[replace(MODEL, name="elsewhere", device="cuda", dtype="bfloat16")]) == made_by()


def test_a_caption_whose_matcher_was_lost_says_so() -> None:
    def of(matcher: RuleMatcher | None) -> str:
        pipeline = CaptionPipeline(RuleGenerator(lambda prompt: "a dog on a couch"), matcher=matcher)
        result = asyncio.run(pipeline.caption(PIXELS, options(strategy="grounded", rounds=1)))
        assert bool(result.degraded) == isinstance(matcher, LostMatcher)
        return result.fingerprint

    assert of(NamedMatcher(lambda text: 0.9)).split(".")[2] == "22222222"
    assert of(LostMatcher(lambda text: 0.9)) == of(None)
    assert of(None).split(".")[2] == "none"


def test_a_checkpoint_counts_by_its_contents(tmp_path_factory: pytest.TempPathFactory) -> None:
    files = {"config.json": "{}", "model.safetensors": "weights", "README.md": "a card"}
    folders = [tmp_path_factory.mktemp("model") for _ in range(3)]
    for folder in folders:
        for name, text in files.items():
            (folder / name).write_text(text)
    (folders[1] / "README.md").write_text("another card")
    (folders[2] / "model.safetensors").write_text("weightz")
    found = [digest(folder) for folder in folders]
    assert found[0] == found[1] != found[2]
    assert digest(resolve("demo")) != found[0]


class HashMatcher(NamedMatcher):
    """Believes what the hash of a text says: any change of a statement's words shows."""

    async def match(
        self, pixels: Pixels, texts: Sequence[str], timeout_s: float | None = None, *, similarity: bool = False
    ) -> list[Match]:
        return [Match(0.5 + hashlib.sha256(text.encode()).digest()[0] / 512) for text in texts]


GROUPS = (
    ("a man riding a horse on the beach", "two people and a brown horse at sunset", "a horse runs near the water"),
    ("arafed cat laying on a red sofa", "there is a cat with a ball", "a grey cat sleeps on a couch next to a window"),
    (
        "three boats are docked in a harbor",
        "several boats on the water",
        "a white boat in front of a house",
    ),
    ("a plate of food with a fork and a knife", "a salad on a white plate", "a table topped with plates of salad"),
    ("a woman is holding an umbrella in the rain", "a person walks down a wet street", "people with umbrellas"),
    ("a sign that says stop on a pole", "a stop sign at an intersection", "a street sign and two cars"),
    ("a group of children are playing soccer", "kids on a field with a ball", "a boy kicks a ball, a dog watches"),
    ("an old train crosses a bridge over a river", "a steam engine on the tracks", "a train going over a stone bridge"),
)
GOLDEN = {1: "104d1f2548f49ec5"}
"""Of each version what it makes of `GROUPS`; the last one is the version that runs."""


def captions() -> list[str]:
    found = []
    for group in GROUPS:
        texts = iter(group * 20)
        pipeline = CaptionPipeline(RuleGenerator(lambda prompt, texts=texts: next(texts)), matcher=HashMatcher(bool))  # type: ignore[misc]
        for strategy in ("grounded", "classic"):
            result = asyncio.run(pipeline.caption(PIXELS, options(strategy=strategy, prompts=("a", "b", "c"))))
            found.append(result.caption)
    return found


def test_a_pipeline_that_makes_other_captions_has_another_version() -> None:
    """If this fails, captions have changed for the same texts: raise `PIPELINE_VERSION` and add the digest that is
    printed, so that `batch --refresh-outdated` finds what was made before."""
    made = hashlib.sha256("\n".join(captions()).encode()).hexdigest()[:16]
    assert (max(GOLDEN), GOLDEN[max(GOLDEN)]) == (PIPELINE_VERSION, made)
