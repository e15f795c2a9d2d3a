"""The training loss of packed texts against the model's own loss of each text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lab import captions, held_out
from lab.train import Trainee, model_config
from lab.training_data import IGNORED, Writer, _pack
from lab.vocabulary import write_tokenizer
from serve_app.pipeline.presets import VARIANT_PROMPTS


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
