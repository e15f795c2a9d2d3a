"""The training loop that the embedded models share: AdamW, a cosine, and a running average of the weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn
from transformers import BertTokenizer, BlipImageProcessor, BlipProcessor, PreTrainedModel

from lab.scenes import SIZE

M = TypeVar("M", bound=nn.Module)
Batch = Mapping[str, torch.Tensor]


def learning_rate(step: int, steps: int, peak: float, phase_step: int, warm_up: int = 60) -> float:
    """A cosine from `peak` to 2 % of it over all steps, with a linear warm-up into each phase."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * cosine * min(1.0, (phase_step + 1) / warm_up)


@dataclass
class Fit(Generic[M]):
    """Trains `model`, which returns its losses by name; `kept` is the average that is saved."""

    model: M
    steps: int
    peak: float
    bf16: bool
    save: Callable[[M], None]
    log_every: int = 50
    save_every: int = 400

    def __post_init__(self) -> None:
        self.kept = copy.deepcopy(self.model).eval()
        self.step = 0
        self._begun = time.monotonic()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        decayed = [parameter for parameter in trained if parameter.ndim >= 2]
        other = [parameter for parameter in trained if parameter.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.02}, {"params": other, "weight_decay": 0.0}],
            betas=(0.9, 0.98),
            fused=True,
        )

    def phase(self, batches: Iterable[Batch], weights: Mapping[str, float]) -> None:
        """One pass over `batches`; `weights` says how much each loss counts."""
        for phase_step, batch in enumerate(batches):
            rate = learning_rate(self.step, self.steps, self.peak, phase_step)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                losses: dict[str, torch.Tensor] = self.model(batch)
            loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            self._average()
            self.step += 1
            if self.step % self.log_every == 0:
                said = " ".join(f"{name} {value.item():.4f}" for name, value in losses.items())
                print(f"step {self.step}/{self.steps} {said} {time.monotonic() - self._begun:.0f} s", flush=True)
            if self.step % self.save_every == 0 or self.step == self.steps:
                self.save(self.kept)

    def _average(self) -> None:
        decay = min(0.996, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.kept.parameters()), list(self.model.parameters()), 1 - decay)


def save(model: PreTrainedModel, tokenizer: BertTokenizer, out: Path) -> None:
    """Writes half-precision weights, configuration, processor and vocabulary."""
    copy.deepcopy(model).half().save_pretrained(str(out), safe_serialization=True)
    images = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    BlipProcessor(images, tokenizer).save_pretrained(str(out))
