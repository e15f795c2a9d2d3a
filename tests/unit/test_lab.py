"""The scenes and their language."""

from __future__ import annotations

import itertools
import tomllib

import numpy as np
import pytest
from PIL import Image

from lab import captions, composers, held_out, photographs, questions, sprites, statements, unknown
from lab.augment import augment
from lab.backgrounds import BACKGROUNDS
from lab.calibrate import replaced
from lab.composers import draw, draw_grid, draw_held_out, draw_nothing
from lab.facts import claims
from lab.grammar import faults
from lab.objects import DRAWN, KINDS, UNKNOWN, nouns_in
from lab.photographs import HELD_OUT, TRAINING
from lab.scenes import CALIBRATION_SEED, HELD_OUT_SEED, TRAIN_SEED, Group, Scene, relations, told, visible
from lab.score import Score
from lab.sprites import FontMissing
from serve_app.types import CaptionResult, Clause, Source
from serve_app.ui import render
from serve_app.ui.texts import TEXTS

needs_font = pytest.mark.skipif(not sprites.FONT.is_file(), reason="Noto Color Emoji is not installed")


def all_scenes() -> list[Scene]:
    """The committed scenes of both worlds."""
    return [scene for world in held_out.DRAWS for _, scene in held_out.read(world)]


def test_there_are_more_than_a_hundred_kinds_each_with_words_of_its_own() -> None:
    assert len(KINDS) >= 100
    singular, plural = {kind.noun for kind in KINDS}, {kind.plural for kind in KINDS}
    assert len(singular) == len(plural) == len(KINDS)
    assert nouns_in("Two mice, a dog and three butterflies.") == {"mouse", "dog", "butterfly"}


@pytest.mark.parametrize(("world", "backgrounds"), [("grid", 10), ("unseen", 12)])
def test_held_out_sets_are_whole_and_varied(world: str, backgrounds: int) -> None:
    files, every = zip(*held_out.read(world), strict=True)
    assert len(files) == held_out.COUNT == 200
    assert all(file.is_file() for file in files)
    assert len(set().union(*(scene.nouns for scene in every))) > 100
    assert {len(scene.groups) for scene in every} == {1, 2, 3, 4}
    assert len({scene.background for scene in every}) == backgrounds


def test_seed_streams_are_apart() -> None:
    assert len({TRAIN_SEED, HELD_OUT_SEED, CALIBRATION_SEED}) == 3


@needs_font
def test_same_seed_same_scene_and_the_committed_truth_is_what_is_drawn() -> None:
    for world, draws in held_out.DRAWS.items():
        image, scene = draws((HELD_OUT_SEED, 0))
        again, _ = draws((HELD_OUT_SEED, 0))
        assert image.tobytes() == again.tobytes()
        assert scene == next(held_out.read(world))[1]
        assert draws((HELD_OUT_SEED, 1))[1] != scene


@needs_font
def test_composers_keep_what_they_promise() -> None:
    assert not set(composers.TRAINING) & set(composers.HELD_OUT), "what is held out, training never uses"
    assert sum(composers.TRAINING.values()) == pytest.approx(1)
    for index in range(60):
        for scene in (draw((TRAIN_SEED, index))[1], draw_held_out((HELD_OUT_SEED, index))[1]):
            assert len(scene.nouns) == len(scene.groups) <= 4
            for group in scene.groups:
                assert 1 <= group.count == len(group.boxes) <= 6
                assert all(visible(box) > 0.55 for box in group.boxes)
                assert bool(group.color) == (group.noun not in {kind.noun for kind in DRAWN})


@needs_font
def test_a_scene_that_is_moved_is_told_anew() -> None:
    dog = Group("dog", 1, "small", "top left", ((0.1, 0.1, 0.3, 0.3),))
    scene = Scene(0, (dog,))
    moved = told(scene, [[(0.4, 0.7, 0.9, 1.2)]])
    assert (moved.groups[0].cell, moved.groups[0].size) == ("bottom right", "large")
    rng = np.random.default_rng(0)
    for index in range(40):
        pixels, changed = augment(rng, *draw((TRAIN_SEED, index)))
        assert pixels.shape == (160, 160, 3)
        for rule in captions.VARIANTS:
            assert all(claim.holds(changed) for claim in claims(rule(changed)))


def test_what_is_told_of_a_moved_picture_is_where_its_pixels_are() -> None:
    box = (0.1, 0.1, 0.3, 0.3)
    picture = Image.new("RGB", (160, 160), (0, 0, 90))
    picture.paste((255, 0, 0), (16, 16, 48, 48))
    scene = Scene(0, (Group("square", 1, "small", "top left", (box,), "red"),))
    moved, off = 0, []
    for seed in range(60):
        pixels, changed = augment(np.random.default_rng(seed), picture, scene)
        found = changed.groups[0].boxes[0]
        moved += found != box
        rows, columns = np.nonzero((pixels[..., 0] > 150) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90))
        left, top, right, bottom = (edge * 160 for edge in found)
        off.append(abs(columns.mean() - (left + right) / 2) + abs(rows.mean() - (top + bottom) / 2))
    assert moved > 15
    assert np.quantile(off, 0.9) < 3, "pixels; a frame may be as red as the square"


@needs_font
def test_what_has_no_word_is_described_as_nothing() -> None:
    assert not {kind.glyph for kind in DRAWN} & set(UNKNOWN)
    assert not TRAINING.keys() & HELD_OUT.keys(), "what is held out stands behind no scene"
    _, scene = draw_nothing(np.random.default_rng(1))
    assert scene.groups == ()
    assert all(captions.NOTHING in rule(scene) for rule in captions.VARIANTS)
    assert captions.refinement(scene, captions.plain(scene)) == "."
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert statements.pair(rng, scene)[0] == "nothing"
        assert questions.ask(rng, scene)[2] in {captions.NOTHING, "zero", "no", "yes", "unknown"} | {
            ground.name for ground in BACKGROUNDS
        }


def test_missing_font_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sprites, "FONT", held_out.DIRECTORY / "no-font.ttf")
    sprites.glyph.cache_clear()
    with pytest.raises(FontMissing, match="fonts-noto-color-emoji"):
        draw_grid((HELD_OUT_SEED, 0))


def test_every_variant_tells_another_part() -> None:
    for scene in all_scenes():
        texts = [rule(scene) for rule in captions.VARIANTS]
        assert set().union(*map(nouns_in, texts)) == scene.nouns


def test_rounds_add_a_sentence_each_and_then_nothing() -> None:
    for scene in all_scenes():
        caption = captions.VARIANTS[2](scene)
        while (more := captions.refinement(scene, caption)) != ".":
            assert len(more.replace(",", "").split()) > 5
            caption += more
            assert all(claim.holds(scene) for claim in claims(caption))
        assert (" to the " in caption or " above " in caption or " below " in caption) == bool(
            len(scene.groups) > 1 and relations(scene)
        )


def test_extension_adds_enough_words_to_any_variant_of_a_single_object() -> None:
    for scene in all_scenes():
        if len(scene.groups) == 1:
            for rule in captions.VARIANTS:
                assert len(captions.extension(scene, rule(scene)).replace(",", "").split()) > 5


def test_no_text_repeats_four_words_that_a_preset_would_forbid() -> None:
    """The presets forbid repeated 4-grams, so a right answer must not need one."""
    for scene in all_scenes():
        for rule in captions.VARIANTS:
            caption = rule(scene)
            for _ in range(3):
                caption += captions.refinement(scene, caption)
            words = caption.replace(",", " ,").split()
            grams = list(zip(*(words[start:] for start in range(4)), strict=False))
            assert len(grams) == len(set(grams)), caption


def test_score_counts_found_missing_and_invented_kinds() -> None:
    scene = next(scene for scene in all_scenes() if len(scene.nouns) == 2)
    there = sorted(scene.nouns)
    invented = next(kind.noun for kind in KINDS if kind.noun not in scene.nouns)
    score = Score()
    score.add(scene, f"the {there[0]} and the {invented}")
    summary = score.summary()
    assert (summary["recall"], summary["wrong"], summary["words"]) == (0.5, 0.5, 5.0)
    assert summary["well_formed"] == 0
    low, high = score.intervals()["recall"]
    assert low == high == 0.5, "there is one scene"


def test_claims_of_right_captions_are_all_right_and_of_swapped_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    caught = 0
    for scene in all_scenes():
        for rule in statements.CAPTIONS:
            assert all(claim.holds(scene) for claim in claims(rule(scene))), rule(scene)
        name, true, false = statements.pair(rng, scene)
        assert true != false, name
        caught += not all(claim.holds(scene) for claim in claims(false))
    assert caught > 150, "an object's swap shows in its count and its places only"


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("A large dog and two apples.", {("size", "dog", "large"), ("count", "dog", "1"), ("count", "apple", "2")}),
        ("The dog is small and in the top left.", {("size", "dog", "small"), ("position", "dog", "top left")}),
        ("The dog and the apples are on the left side.", {("position", "dog", "left"), ("position", "apple", "left")}),
        ("The dog. There is a cat in the top left.", {("count", "cat", "1"), ("position", "cat", "top left")}),
        ("On the green grass.", {("background", "", "the green grass")}),
        ("A large red circle.", {("count", "circle", "1"), ("size", "circle", "large"), ("color", "circle", "red")}),
        ("The dogs are at the top.", {("position", "dog", "top")}),
        ("The dogs are on the left side.", {("position", "dog", "left")}),
        ("The dog is to the left of the cat.", {("relation", "dog", "to the left of cat")}),
        ("The dog stands on the car.", {("relation", "dog", "on car")}),
    ],
)
def test_claims(text: str, claimed: set[tuple[str, str, str]]) -> None:
    assert {(claim.kind, claim.noun, claim.value) for claim in claims(text)} == claimed


@pytest.mark.parametrize(
    "text",
    [
        "A large dog, two apples and a cup on the green grass.",
        "A dog. The dog is in the top left.",
        "There are also two dogs.",
    ],
)
def test_well_formed(text: str) -> None:
    assert faults(text) == []


@pytest.mark.parametrize(
    "text",
    ["a dog.", "A dog", "A apple.", "An dog.", "Two dog.", "The dogs is large.", "A dog and.", "A dog dog.",
     "The image shows dog.", "A cat. A cat.", "There is also two dogs.", "A dog , a cat.", ""],
)  # fmt: skip
def test_ill_formed(text: str) -> None:
    assert faults(text)


def test_questions_have_their_answers() -> None:
    rng = np.random.default_rng(0)
    dogs = Group("dog", 2, "small", "top left", ((0.1, 0.1, 0.2, 0.2), (0.2, 0.1, 0.3, 0.2)))
    cat = Group("cat", 1, "large", "bottom left", ((0.0, 0.5, 0.4, 0.9),))
    scene = Scene(0, (cat, dogs, Group("circle", 1, "small", "bottom right", ((0.7, 0.7, 0.8, 0.8),), "red")))
    asked = {questions.ask(rng, scene)[1:] for _ in range(3000)}
    for pair in (
        ("how many dogs are there?", "two"), ("where is the cat?", "in the bottom left"), ("is there a cat?", "yes"),
        ("what is in the top left?", "two dogs"), ("what is on the right side?", "a red circle"),
        ("what is the background?", "the green grass"), ("are the dogs large?", "no"),
        ("what color is the circle?", "red"), ("what is above the cat?", "two dogs"),
        ("are the dogs above the cat?", "yes"), ("what is on the left?", "two dogs and a cat"),
    ):  # fmt: skip
        assert pair in asked


def test_scene_survives_json() -> None:
    for scene in itertools.islice(all_scenes(), 5):
        assert Scene.from_dict(scene.as_dict()) == scene


def test_users_are_told_how_many_objects_the_embedded_model_knows() -> None:
    from serve_app.cli.launch import DEMONSTRATION

    words = [DEMONSTRATION, *(texts["demonstration"] for texts in TEXTS.values())]
    assert all(str(len(DRAWN)) in text for text in words)
    assert all(render.header(language, "demo").count("MODEL=") == 1 for language in TEXTS)
    assert "MODEL=" not in render.header("en", "Salesforce/blip-image-captioning-large")


def test_crops_of_photographs_are_the_same_each_time() -> None:
    first, again = (next(iter(unknown.crops(1))) for _ in range(2))
    assert first.size == (unknown.SIZE, unknown.SIZE)
    assert first.tobytes() == again.tobytes()
    assert len(photographs.held_out()) == sum(map(len, HELD_OUT.values()))


def test_a_missing_package_of_photographs_is_told() -> None:
    with pytest.raises(photographs.PhotographsMissing, match="pip install no-such-package"):
        photographs.files({"no-such-package": ("a",)})


def test_a_photograph_s_caption_is_right_if_it_believes_nothing() -> None:
    source = Source("variant", 1)
    clauses = (Clause("a dog", 0, 5, source, "there is a dog", 0.6), Clause("on sand", 6, 13, source, "on sand", 0.9))
    result = CaptionResult("a dog on sand", "demo", 0, (), (), clauses)
    assert unknown.believed(result) == ["there is a dog"]


def test_fitted_weights_take_the_place_of_the_old_ones() -> None:
    text = "# words\n\n[a.matched]  # old\nbias = 1\n\n[a.alone]\nbias = 2\n"
    new = replaced(text, ["[a.matched]\nbias = 3", "[b.alone]\nbias = 4"])
    assert tomllib.loads(new) == {"a": {"matched": {"bias": 3}, "alone": {"bias": 2}}, "b": {"alone": {"bias": 4}}}
    assert replaced(new, ["[a.alone]\nbias = 5"]).count("bias") == 3
    assert new.startswith("# words\n\n[a.matched]")
