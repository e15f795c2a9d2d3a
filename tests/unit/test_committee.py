"""Several captioners in one service."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from serve_app.args import AppArgs
from serve_app.errors import GenerationFailed, GeneratorUnavailable, InvalidOption, Overloaded, PromptTooLong
from serve_app.http import create_app
from serve_app.limits import Limits
from serve_app.pipeline import CaptionPipeline, Committee, Member
from serve_app.pipeline import committee as committee_module
from serve_app.pipeline.language.parsing import read
from serve_app.pipeline.scores import Agreement, Candidate, Support
from serve_app.remote import key_of
from serve_app.service import CaptionService
from serve_app.steps import Started, Step, VariantDone
from serve_app.types import CaptionResult, Match, ModelInfo, Outcome, Pixels, Source
from tests.pictures import encoded, picture
from tests.unit.fakes import INFO, PIXELS, RuleGenerator, options

PNG = encoded(picture(), "PNG")
WIDE = replace(INFO, name="wide", image_height=6, image_width=10)
LONG = "a red bus stands beside a small green tree in front of a tall grey house"
CHAT = replace(INFO, name="chat", fit="longest", image_height=64, image_width=64, prompts=("Describe it.",), chats=True)


class Named(RuleGenerator):
    """A generator of another model, which keeps the pictures that it was given."""

    def __init__(self, rule: Callable[[str], str | Exception], info: ModelInfo = INFO, delay_s: float = 0.0) -> None:
        super().__init__(rule, delay_s)
        self.pictures: list[Pixels] = []
        self._info = info

    async def info(self) -> ModelInfo:
        return self._info

    async def generate(self, pixels: Pixels, jobs: Any, timeout_s: Any = None, on_outcome: Any = None) -> list[Outcome]:
        self.pictures.append(pixels)
        return await super().generate(pixels, jobs, timeout_s, on_outcome)


class Hanging(Named):
    async def info(self) -> ModelInfo:
        await asyncio.sleep(60)
        raise AssertionError


class Believing:
    """A matcher that believes whatever does not speak of cats."""

    async def match(
        self, pixels: Pixels, texts: Any, timeout_s: Any = None, *, similarity: bool = False
    ) -> list[Match]:
        return [Match(0.05 if "cat" in text else 0.95) for text in texts]


def says(text: str, **settings: Any) -> Named:
    return Named(lambda _: text, **settings)


def pipeline(
    generators: Mapping[str, RuleGenerator], patience_s: float = 5.0, matcher: Any = None, **members: Any
) -> CaptionPipeline:
    members_ = [Member(name, generator, **members.get(name, {})) for name, generator in generators.items()]
    return CaptionPipeline(Committee(members_, patience_s), matcher=matcher)


def captioned(of: CaptionPipeline, on_step: Any = None, **changes: Any) -> CaptionResult:
    wanted = options(**{"strategy": "grounded", "rounds": 1, **changes})
    return asyncio.run(of.caption(PIXELS, wanted, on_step))


def test_every_captioner_is_asked_its_prompts_and_named_as_the_source() -> None:
    blip, chat = says("a dog on a couch"), says("A dog lies by a red ball.", info=CHAT)
    result = captioned(pipeline({"blip": blip, "chat": chat}, matcher=Believing()))
    assert [len(generator.calls[0]) for generator in (blip, chat)] == [4, 1]
    assert result.model == "blip+chat"
    assert [variant.captioner for variant in result.variants] == ["blip"] * 4 + ["chat"]
    assert {clause.source.captioner for clause in result.clauses} == {"blip", "chat"}
    assert "ball" in result.caption
    assert "couch" in result.caption
    assert result.degraded == ()


def test_a_captioner_says_in_a_committee_what_it_says_alone() -> None:
    """Its picture, prompts and random numbers don't depend on the others."""
    alone, among = says("a dog"), says("a dog")
    captioned(CaptionPipeline(alone))
    captioned(pipeline({"other": says("a cat"), "blip": among}))
    assert alone.calls[0] == among.calls[0]


def test_each_captioner_gets_the_picture_at_its_own_size() -> None:
    generators = {"blip": says("a dog"), "wide": says("a dog", info=WIDE), "chat": says("a dog", info=CHAT)}
    service = CaptionService(pipeline(generators))
    asyncio.run(service.caption(PNG, {}))
    shapes = {name: {(each.height, each.width) for each in found.pictures} for name, found in generators.items()}
    assert shapes["blip"] == {(8, 8)}
    assert shapes["wide"] == {(6, 10)}
    assert len(shapes["chat"]) == 1
    digests = {found.pictures[0].digest for found in generators.values()}
    assert len(digests) == 3, "affinity and the seeds are each captioner's own"


def test_a_matcher_of_another_size_gets_its_own_picture() -> None:
    sizes: set[tuple[int, int]] = set()

    class Sized(Believing):
        async def info(self) -> ModelInfo:
            return WIDE

        async def match(self, pixels: Pixels, *arguments: Any, **named: Any) -> list[Match]:
            sizes.add((pixels.height, pixels.width))
            return await super().match(pixels, *arguments, **named)

    of = pipeline({"blip": says("a dog")}, matcher=Sized())
    asyncio.run(CaptionService(of).caption(PNG, {"detail": "low"}))
    assert sizes == {(6, 10)}


@pytest.mark.parametrize(
    "broken",
    [
        says("a cat", delay_s=60),
        Hanging(str),
        Named(lambda _: GenerationFailed("The model failed.")),
        Named(lambda _: GeneratorUnavailable("No replica is there.")),
        Named(lambda _: Overloaded("The service is full.")),
    ],
    ids=["hangs", "does not start", "fails", "is lost", "is full"],
)
def test_a_lost_captioner_is_named_and_delays_nobody(broken: Named) -> None:
    of = pipeline({"blip": says("a dog on a couch"), "other": broken}, patience_s=0.2)
    start = time.monotonic()
    result = captioned(of, rounds=3)
    assert time.monotonic() - start < 3
    assert "dog" in result.caption
    assert [line for line in result.degraded if line.startswith("other: ")] == list(result.degraded) != []
    assert len(result.degraded) == 1


def test_no_request_waits_longer_for_a_captioner_than_half_of_its_time() -> None:
    of = pipeline({"blip": says("a dog"), "slow": says("a cat", delay_s=60)}, patience_s=30)
    start = time.monotonic()
    result = captioned(of, timeout_s=1.0)
    assert 0.3 < time.monotonic() - start < 0.9
    assert "dog" in result.caption


def test_a_captioner_that_keeps_failing_is_left_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committee_module, "PAUSE_S", 0.3)
    broken = Named(lambda _: GenerationFailed("The model failed."))
    of = pipeline({"blip": says("a dog"), "other": broken})

    async def run() -> None:
        wanted = options(strategy="grounded", rounds=1)
        for _ in range(4):
            result = await of.caption(PIXELS, wanted)
            assert any(line.startswith("other: ") for line in result.degraded)
        assert len(broken.calls) == committee_module.MOST_LOSSES
        await asyncio.sleep(0.4)
        await of.caption(PIXELS, wanted)
        assert len(broken.calls) == committee_module.MOST_LOSSES + 1, "then it is tried again"

    asyncio.run(run())


def test_a_request_s_own_fault_is_not_the_captioner_s() -> None:
    picky = Named(lambda prompt: PromptTooLong("The prompt is too long."))
    of = pipeline({"blip": says(LONG), "picky": picky})

    async def run() -> None:
        for _ in range(4):
            await of.caption(PIXELS, options(strategy="grounded", rounds=1))

    asyncio.run(run())
    assert len(picky.calls) == 4


def test_all_lost_is_an_error_with_a_cause() -> None:
    broken = Named(lambda _: GenerationFailed("The model failed."))
    with pytest.raises(GenerationFailed, match=r"The model failed\."):
        captioned(pipeline({"blip": broken, "other": broken}))


def test_leaving_a_request_ends_the_work_of_all() -> None:
    slow = [says("a dog", delay_s=60), says("a cat", delay_s=60)]

    async def run() -> None:
        of = pipeline({"blip": slow[0], "other": slow[1]})
        task = asyncio.create_task(of.caption(PIXELS, options(strategy="grounded")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert [generator.cancelled for generator in slow] == [1, 1]


@pytest.mark.parametrize("strategy", ["basic", "classic"])
def test_basic_and_classic_take_one_captioner(strategy: str) -> None:
    first, second = says(LONG), says(LONG.replace("bus", "boat"))
    of = pipeline({"blip": first, "other": second})
    assert "bus" in captioned(of, strategy=strategy).caption
    assert second.calls == []
    found = captioned(of, strategy=strategy, use=("other",))
    assert (found.model, {clause.source.captioner for clause in found.clauses}) == ("other", {"other"})


def test_use_chooses_and_an_unknown_name_is_told() -> None:
    first, second, third = says("a dog"), says("a cat"), says("a cow")
    of = pipeline({"a": first, "b": second, "c": third})
    assert captioned(of, use=("c", "a")).model == "a+c"
    assert second.calls == []
    with pytest.raises(InvalidOption, match="there is no captioner 'd'; the captioners are a, b, c"):
        captioned(of, use=("d",))
    with pytest.raises(InvalidOption, match="use"):
        of.work(options(use=("d",)))
    with pytest.raises(InvalidOption, match="this service has one captioner"):
        captioned(CaptionPipeline(first), use=("a",))


def test_rounds_go_to_those_that_can_go_on_with_a_caption() -> None:
    blip, git = says("a dog"), says("a dog", info=replace(INFO, continues=False))
    captioned(pipeline({"blip": blip, "git": git}), rounds=2)
    assert len(blip.calls) > 1
    assert len(git.calls) == 1


def test_steps_tell_who_is_asked_and_who_answered() -> None:
    steps: list[Step] = []
    slow = says("a cat", delay_s=60)
    of = pipeline({"blip": says("a dog"), "chat": says("a dog", info=CHAT), "slow": slow}, patience_s=0.2)
    captioned(of, steps.append)
    started = next(step for step in steps if isinstance(step, Started))
    assert started.model == "blip+chat+slow"
    assert started.captioners == ("blip",) * 4 + ("chat",) + ("slow",) * 4
    done = {step.index: step.variant for step in steps if isinstance(step, VariantDone)}
    assert sorted(done) == list(range(1, 10)), "each variant once, the lost ones too"
    assert [done[index].captioner for index in sorted(done)] == list(started.captioners)
    assert done[9].text == ""


def candidate(text: str, variant: int, captioner: str | None, log_probability: float | None = None) -> Candidate:
    return Candidate(read(text), Source("variant", variant, captioner), variant, log_probability)


def test_two_captioners_that_agree_are_more_than_two_prompts_of_one() -> None:
    def features(*said: tuple[str, str]) -> tuple[float, ...]:
        found = [candidate(text, number, captioner) for number, (captioner, text) in enumerate(said, start=1)]
        return Agreement(tuple(found)).features(read("a dog").statements[0])

    two_prompts = features(("a", "a dog"), ("a", "a dog"), ("a", "a cow"), ("b", "a cow"))
    two_captioners = features(("a", "a dog"), ("a", "a cow"), ("a", "a cow"), ("b", "a dog"))
    assert two_captioners[0] > two_prompts[0]
    assert (two_captioners[3], two_prompts[3]) == (1.0, 0.0)


def test_a_captioner_without_log_probabilities_is_no_less_sure() -> None:
    sure = [candidate("a dog", 1, "a", -0.2), candidate("a cow", 2, "b", None)]
    _, _, likely, _ = Agreement(tuple(sure)).features(read("a cow").statements[0])
    assert likely == pytest.approx(-0.2)


def test_one_captioner_is_weighed_as_ever() -> None:
    one = (candidate("a dog", 1, None, -0.2), candidate("a dog and a cow", 2, None, -0.4))
    assert Agreement(one).features(read("a cow").statements[0])[3] == 0.0
    assert Support.of().behind(1) == Support.of()


def test_the_fingerprint_says_who_captioned() -> None:
    blip, other = replace(INFO, revision="1" * 64), replace(INFO, revision="2" * 64)
    both = {"blip": says("a dog", info=blip), "other": says("a dog", info=other)}
    together = captioned(pipeline(both)).fingerprint
    assert captioned(pipeline(both), use=("other",)).fingerprint.split(".")[1] == "2" * 8
    lost = {**both, "other": Named(lambda _: GenerationFailed("It failed."), info=other)}
    assert captioned(pipeline(lost)).fingerprint.split(".")[1] == "1" * 8
    assert together.split(".")[1] not in ("1" * 8, "2" * 8)
    assert asyncio.run(pipeline(both).fingerprint("grounded")) == together
    only = captioned(pipeline(both), use=("other",)).fingerprint
    assert asyncio.run(pipeline(both).fingerprint("grounded", ("other",))) == only
    with pytest.raises(GeneratorUnavailable, match="other"):
        asyncio.run(pipeline({**both, "other": Hanging(str)}, patience_s=0.1).fingerprint("grounded"))


def test_work_is_counted_for_each_captioner() -> None:
    of = pipeline({"blip": says("a dog"), "vlm": says("a dog")}, vlm={"prompts": ("one", "two"), "beams": False})
    asyncio.run(of.infos())
    assert of.work(options(strategy="grounded", rounds=1)) == {"blip": 4 * 8, "vlm": 2}
    assert of.work(options(strategy="basic")) == {"blip": 1}
    assert of.work(options(strategy="grounded", rounds=1, use=("vlm",))) == {"vlm": 2}


def test_a_full_captioner_refuses_only_what_uses_it() -> None:
    async def run() -> None:
        capacity = {"blip": 100.0, "vlm": 8.0}
        of = pipeline({"blip": says("a dog"), "vlm": says("a dog")}, vlm={"beams": False})
        service = CaptionService(of, Limits(), capacity.__getitem__)
        with service.admission.of("vlm").admit(8):
            with pytest.raises(Overloaded):
                await service.caption(PNG, {"detail": "low"})
            assert service.admission.of("blip").admitted == 0, "what was held for the refused one is free again"
            await service.caption(PNG, {"detail": "low", "use": ["blip"]})

    asyncio.run(run())


async def test_the_gate_lets_in_what_another_captioner_may_take() -> None:
    of = pipeline({"blip": says("a dog"), "vlm": says("a dog")}, vlm={"beams": False})
    service = CaptionService(of, Limits(), {"blip": 100.0, "vlm": 8.0}.__getitem__)
    transport = httpx.ASGITransport(app=create_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        with service.admission.of("vlm").admit(8):
            one = await client.post("/v1/captions", files={"image": PNG}, data={"detail": "low", "use": "blip"})
            both = await client.post("/v1/captions", files={"image": PNG}, data={"detail": "low"})
            with service.admission.of("blip").admit(100):
                none = await client.post("/v1/captions", files={"image": PNG}, data={"detail": "low", "use": "blip"})
    assert [answer.status_code for answer in (one, both, none)] == [200, 503, 503]


@pytest.mark.parametrize("others", [1, 2])
def test_a_service_is_ready_when_one_captioner_works(others: int) -> None:
    slow = {f"slow{number}": Hanging(str) for number in range(others)}
    begun = time.monotonic()
    asyncio.run(pipeline({**slow, "blip": says("a dog")}, patience_s=30).probe())
    assert time.monotonic() - begun < 2
    with pytest.raises(GenerationFailed):
        asyncio.run(pipeline({"blip": Named(lambda _: GenerationFailed("It failed."))}).probe())


def test_a_captioner_that_starts_while_the_image_is_read_is_named() -> None:
    of = pipeline({"blip": says("a dog"), "wide": says("a dog", info=WIDE)})
    wanted = options(strategy="grounded", rounds=1)
    result = asyncio.run(of.caption({INFO.size: PIXELS}, wanted))
    assert result.degraded == ("wide: It started while the image was read.",)


async def test_over_http() -> None:
    of = pipeline({"blip": says("a dog on a couch"), "other": says("a cow")})
    transport = httpx.ASGITransport(app=create_app(CaptionService(of)))
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        models = (await client.get("/v1/models")).json()["data"]
        assert {model["id"]: model["captioners"] for model in models} == {
            "blip+other": ["blip", "other"], "blip": ["blip"], "other": ["other"],
        }  # fmt: skip
        body = (await client.post("/v1/captions", files={"image": PNG}, data={"use": ["other"]})).json()
        assert body["model"] == body["variants"][0]["captioner"] == "other"
        refused = await client.post("/v1/captions", files={"image": PNG}, data={"use": "nobody"})
        assert (refused.status_code, "blip, other" in refused.json()["detail"]) == (422, True)
        streamed = await client.post("/v1/captions", files={"image": PNG}, headers={"accept": "text/event-stream"})
        lines = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
        assert '"captioner":"other"' in "".join(lines).replace(" ", "")
        chat = {
            "model": "other",
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url()}}]}],
        }
        answer = (await client.post("/v1/chat/completions", json=chat)).json()
        assert answer["model"] == "other"
        assert "cow" in answer["choices"][0]["message"]["content"]
        unknown = await client.post("/v1/chat/completions", json={**chat, "model": "third"})
        assert (unknown.status_code, "blip, other" in unknown.json()["error"]["message"]) == (404, True)


def data_url() -> str:
    import base64

    return "data:image/png;base64," + base64.b64encode(PNG).decode()


THREE = [
    {"name": "blip", "model": "demo"},
    {"name": "florence", "model": "microsoft/Florence-2-large", "dtype": "float32", "variant_prompts": ["<CAPTION>"]},
    {"name": "vlm", "model": "qwen", "engine": "openai", "captioner_url": "http://vlm:8000/v1"},
]


def test_what_a_captioner_does_not_set_is_the_service_s() -> None:
    args = AppArgs.model_validate({"captioners": THREE, "device": "cuda", "dtype": "bfloat16", "max_rows": 64})
    each = args.each()
    assert [(found.model, found.engine, found.device, found.dtype) for found in each.values()] == [
        ("demo", "decode", "cuda", "bfloat16"),
        ("microsoft/Florence-2-large", "decode", "cuda", "float32"),
        ("qwen", "openai", "cuda", "bfloat16"),
    ]
    assert {name: found.rows for name, found in each.items()} == {"blip": 64, "florence": 64, "vlm": 16}
    assert AppArgs(model="demo").each() == {"captioner": AppArgs(model="demo")}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"captioners": THREE, "model": "demo"}, "model belongs to one of the captioners"),
        ({"captioners": [THREE[0], THREE[0]]}, "different names"),
        ({"captioners": [{"model": "demo"}]}, "name"),
        ({"captioners": [{"name": "A b", "model": "demo"}]}, "name"),
        ({"captioners": [{"name": "a", "engine": "openai"}]}, "captioner_url go together"),
        ({"captioners": [{"name": "a", "modle": "demo"}]}, "modle"),
    ],
)
def test_settings_that_don_t_fit_are_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        AppArgs.model_validate(changes)


def test_each_captioner_by_url_may_have_its_own_key() -> None:
    environment = {"CAPTION_SERVE_CAPTIONER_API_KEY": "all", "CAPTION_SERVE_CAPTIONER_API_KEY_MY_VLM": "own"}
    assert key_of("my-vlm", environment) == "own"
    assert key_of("other", environment) == "all"
    assert key_of("other", {}) is None


def test_a_captioner_that_is_lost_in_the_extension_is_named() -> None:
    """It was an error of ours: the prompts of those that were left did not fit those that had been asked."""
    asked: list[str] = []

    def rule(prompt: str) -> str | Exception:
        asked.append(prompt)
        return "a cat" if len(asked) <= 4 else GenerationFailed("It failed.")

    result = captioned(pipeline({"blip": says("a dog"), "other": Named(rule)}))
    assert result.degraded == ("other: It failed.",)
    assert "dog" in result.caption


def test_a_bug_of_one_captioner_is_a_loss() -> None:
    def broken(_: str) -> str:
        raise KeyError("a bug")

    result = captioned(pipeline({"blip": says("a dog"), "other": Named(broken)}))
    assert [line.split(":")[0] for line in result.degraded] == ["other"]


def test_a_captioner_that_has_yet_to_start_costs_its_patience_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committee_module, "START_PATIENCE_S", 0.5)
    service = CaptionService(pipeline({"blip": says(LONG), "other": Hanging(str)}, patience_s=30))

    async def run() -> None:
        for most in (0.9, 0.3):
            begun = time.monotonic()
            body = await service.caption(PNG, {"detail": "low", "timeout_s": 5})
            assert [line.split(":")[0] for line in body.degraded] == ["other"]
            assert time.monotonic() - begun < most

    asyncio.run(run())


def test_a_refusal_starts_nobody_s_clock() -> None:
    refusing = Named(lambda _: "I'm sorry, I can't help with that.", info=CHAT)
    steps: list[Step] = []
    of = pipeline({"vlm": refusing, "slow": says("a dog", delay_s=0.5)}, patience_s=0.1)
    result = captioned(of, steps.append)
    assert "dog" in result.caption
    assert [step.variant.text for step in steps if isinstance(step, VariantDone) and step.index == 1] == [""]


def test_a_captioner_that_is_left_alone_takes_no_room() -> None:
    of = pipeline({"blip": says("a dog"), "other": Named(lambda _: GenerationFailed("It failed."))})
    for _ in range(committee_module.MOST_LOSSES):
        captioned(of)
    assert set(of.work(options(strategy="grounded"))) == {"blip"}


def test_one_captioner_of_a_list_is_called_by_its_name() -> None:
    result = captioned(pipeline({"blip": says("a dog")}))
    assert (result.model, result.clauses[0].source.captioner) == ("blip", "blip")
