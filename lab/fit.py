"""The training loop that the embedded models share: AdamW, a cosine, and a running average of the weights.

A run that was cut off goes on where its last checkpoint stands.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import BertTokenizer, BlipImageProcessor, BlipProcessor, PreTrainedModel

from lab.scenes import SIZE

M = TypeVar("M", bound=nn.Module)
Batch = Mapping[str, torch.Tensor]
Examples = Callable[[int, int], IterableDataset[dict[str, torch.Tensor]]]
"""The examples of a stream: the number of the first one, and how many."""
FIRST = 5
"""Steps at the beginning whose losses are written down one by one."""


def learning_rate(step: int, steps: int, peak: float, phase_step: int, warm_up: int = 60) -> float:
    """A cosine from `peak` to 2 % of it over all steps, with a linear warm-up into each phase."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * cosine * min(1.0, (phase_step + 1) / warm_up)


class OtherRun(RuntimeError):
    """A checkpoint is of another run."""


@dataclass(frozen=True)
class Phase:
    """`steps` steps over `batches(first step)`; `weights` says how much each loss counts."""

    steps: int
    batches: Callable[[int], Iterable[Batch]]
    weights: Mapping[str, float]

    @classmethod
    def of(cls, examples: Examples, first: int, steps: int, size: int, weights: Mapping[str, float]) -> Phase:
        """`steps` batches of `size` of the examples `first`, `first + 1`, …"""

        def batches(step: int) -> Iterable[Batch]:
            data = examples(first + step * size, (steps - step) * size)
            return DataLoader(data, batch_size=size, num_workers=1, prefetch_factor=6)

        return cls(steps, batches, weights)


@dataclass(frozen=True)
class Course:
    """How long and how fast a run learns, and where it keeps its state."""

    peak: float
    state: Path
    bf16: bool = True
    log_every: int = 50
    keep_every: int = 200
    run: str = ""
    """What tells this run from others: a checkpoint of another one is refused."""
    most_steps: int | None = None
    """Steps after which the run stops early, as if it were cut off."""


class Fit(Generic[M]):
    """Trains `model`, which returns its losses by name; `kept` is the average of its weights that is to be shipped."""

    def __init__(self, model: M, course: Course) -> None:
        self.model, self.course = model, course
        self.kept = copy.deepcopy(model).eval()
        self.step = 0
        self.log: list[dict[str, Any]] = []
        self._seconds = 0.0
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [each for each in trained if each.ndim >= 2], "weight_decay": 0.02},
                {"params": [each for each in trained if each.ndim < 2], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            fused=True,
        )

    def run(self, phases: list[Phase]) -> bool:
        """All phases, from where the last checkpoint stands. Returns whether the last step was reached."""
        self._restore()
        total = sum(phase.steps for phase in phases)
        last = total if self.course.most_steps is None else min(total, self.course.most_steps)
        begun, before = time.monotonic(), self._seconds
        first = 0
        for phase in phases:
            done = max(0, self.step - first)
            if self.step < min(last, first + phase.steps):
                for phase_step, batch in enumerate(phase.batches(done), start=done):
                    losses = self._learn(batch, phase, learning_rate(self.step, total, self.course.peak, phase_step))
                    self.step += 1
                    self._seconds = before + time.monotonic() - begun
                    self._write_down(losses, total)
                    if self.step == min(last, first + phase.steps):
                        break
            first += phase.steps
        self._keep()
        return self.step >= total

    def _learn(self, batch: Batch, phase: Phase, rate: float) -> dict[str, torch.Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=self.course.bf16):
            losses: dict[str, torch.Tensor] = self.model(batch)
        loss = torch.stack([phase.weights[name] * value for name, value in losses.items()]).sum()
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        decay = min(0.996, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.kept.parameters()), list(self.model.parameters()), 1 - decay)
        return losses

    def _write_down(self, losses: Mapping[str, torch.Tensor], total: int) -> None:
        if self.step <= FIRST or self.step % self.course.log_every == 0:
            said = {name: round(value.item(), 4) for name, value in losses.items()}
            self.log.append({"step": self.step, **said})
            print(f"step {self.step}/{total} {said} {self._seconds:.0f} s", flush=True)
        if self.step % self.course.keep_every == 0:
            self._keep()

    @property
    def _file(self) -> Path:
        return self.course.state / "checkpoint.pt"

    def _keep(self) -> None:
        self.course.state.mkdir(parents=True, exist_ok=True)
        state = {
            "model": self.model.state_dict(),
            "kept": self.kept.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "run": self.course.run,
            "seconds": self._seconds,
            "log": self.log,
        }
        new = self._file.with_suffix(".new")
        torch.save(state, new)
        new.replace(self._file)

    def _restore(self) -> None:
        if not self._file.is_file():
            return
        state = torch.load(self._file, weights_only=True)
        if state.get("run", self.course.run) != self.course.run:
            raise OtherRun(f"{self._file} is of a run with another seed, length or beginning; use another --work.")
        self.model.load_state_dict(state["model"])
        self.kept.load_state_dict(state["kept"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step, self._seconds, self.log = state["step"], state["seconds"], state["log"]


def save(model: PreTrainedModel, tokenizer: BertTokenizer, out: Path, log: list[dict[str, Any]]) -> None:
    """Writes half-precision weights, configuration, processor, vocabulary and the losses of the run."""
    write_down(model, out, log)
    images = BlipImageProcessor(size={"height": SIZE, "width": SIZE})
    BlipProcessor(images, tokenizer).save_pretrained(str(out))


def write_down(model: PreTrainedModel, out: Path, log: list[dict[str, Any]]) -> None:
    """Writes half-precision weights, configuration and the losses of the run."""
    copy.deepcopy(model).half().save_pretrained(str(out), safe_serialization=True)
    (out / "training.json").write_text("\n".join(map(json.dumps, log)) + "\n", encoding="utf-8")
