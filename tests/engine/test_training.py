"""The training loss of packed texts against the model's own loss of each text, and runs that are cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lab import captions, held_out, train_second
from lab.composers import draw
from lab.fit import Course, Fit, OtherRun, Phase
from lab.scenes import TRAIN_SEED
from lab.train import Trainee, model_config
from lab.training_data import IGNORED, SceneTexts, Writer, _pack
from lab.vocabulary import write_tokenizer
from serve_app.engine import open_captioner
from serve_app.limits import Limits
from serve_app.pipeline.presets import VARIANT_PROMPTS
from serve_app.service import images
from serve_app.types import Generated, GenerateJob, GenerationParameters


def test_packed_texts_see_neither_their_neighbours_nor_their_future(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A boolean mask was added to the scores and hid nothing: the loss fell and the model had learned to peek."""
    torch.manual_seed(0)
    tokenizer = write_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model = Trainee(model_config(tokenizer)).eval()
    _, scene = next(iter(held_out.read()))
    writer, rng = Writer(tokenizer), np.random.default_rng(0)
    texts = [
        writer.text(rng, prompt, rule(scene)) for prompt, rule in zip(VARIANT_PROMPTS, captions.VARIANTS, strict=True)
    ]
    image = torch.randn(1, 65, 192)
    losses, counts = [], []
    for text in texts:
        labels = torch.tensor([text.labels])
        logits = model.blip.text_decoder(
            input_ids=torch.tensor([text.inputs]), encoder_hidden_states=image, is_decoder=True
        ).logits
        wanted = labels != IGNORED
        losses.append(torch.nn.functional.cross_entropy(logits[wanted], labels[wanted], reduction="sum"))
        counts.append(int(wanted.sum()))
    packed = {name: row[None] for name, row in _pack(texts).items()}
    assert model._caption_loss(image, packed).item() == pytest.approx(sum(losses).item() / sum(counts), rel=1e-4)


class Line(torch.nn.Module):
    """The least that can be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 1)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"off": (self.line(batch["x"]).float() - batch["x"].sum(-1, keepdim=True)).square().mean()}


class Numbers(torch.utils.data.IterableDataset[dict[str, torch.Tensor]]):
    def __init__(self, first: int, count: int) -> None:
        self._range = range(first, first + count)

    def __iter__(self):  # type: ignore[no-untyped-def]
        for number in self._range:
            yield {"x": torch.randn(3, generator=torch.Generator().manual_seed(number))}


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def fitted(state: Path, *stops: int | None) -> Fit[Line]:
        for most in stops:
            torch.manual_seed(0)
            fit = Fit(Line(), Course(0.1, state, most_steps=most))
            phases = [Phase.of(Numbers, 0, 4, 2, {"off": 1.0}), Phase.of(Numbers, 8, 5, 2, {"off": 2.0})]
            assert fit.run(phases) == (most is None)
        return fit

    whole, resumed = fitted(tmp_path / "whole", None), fitted(tmp_path / "resumed", 2, 4, 7, None)
    assert resumed.step == whole.step == 9
    assert torch.equal(resumed.model.line.weight, whole.model.line.weight)
    assert torch.equal(resumed.kept.line.weight, whole.kept.line.weight)
    assert resumed.log == whole.log


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """A matcher went on from an earlier captioner's although that had been trained anew."""
    phase = Phase.of(Numbers, 0, 2, 2, {"off": 1.0})
    Fit(Line(), Course(0.1, tmp_path, run="first")).run([phase])
    with pytest.raises(OtherRun, match="another seed"):
        Fit(Line(), Course(0.1, tmp_path, run="second")).run([phase])


def test_examples_depend_on_their_number_alone(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    first, second = SceneTexts(tokenizer, 5, 2)
    (again,) = SceneTexts(tokenizer, 6, 1)
    assert all(torch.equal(second[name], again[name]) for name in second)
    assert not torch.equal(first["pixels"], second["pixels"])


async def test_the_second_captioner_is_trained_saved_and_opened_like_any_other(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    item = next(iter(train_second.DescribedScenes(tokenizer, 7, 1)))
    said = tokenizer.decode([token for token in item["labels"].tolist() if token != IGNORED])
    assert said == f"{captions.panorama(draw((TRAIN_SEED, 7))[1])} [SEP]"
    assert not train_second.train(tmp_path, Course(1e-3, tmp_path / "state", most_steps=3), 0, 1, 3, size=2)
    engine = open_captioner(str(tmp_path))
    pixels = images.read(held_out.SAMPLE.read_bytes(), Limits(), await engine.info())
    job = GenerateJob("", GenerationParameters(max_length=8, num_beams=2, num_return_sequences=2))
    (outcome,) = await engine.generate(pixels, [job])
    engine.close()
    assert isinstance(outcome, Generated)
    assert outcome.log_probability is not None
    assert len(outcome.alternatives) == 1
