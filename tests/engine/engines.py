"""Running groups on an engine without its thread, and comparing with transformers."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from serve_app.deadline import NEVER, Deadline
from serve_app.engine import Loaded
from serve_app.engine.engine import Engine
from serve_app.engine.parameters import given, resolve
from serve_app.engine.pixels import Normalizer
from serve_app.engine.scheduler import Group, Hypothesis
from serve_app.errors import CaptionServeError, GenerationFailed
from serve_app.types import EngineLimits, GenerationParameters, Pixels

Result = list[Hypothesis] | CaptionServeError


@dataclass(frozen=True)
class Request:
    """One generate on ids: the start token and the prompt."""

    pixels: Pixels
    prompt: list[int]
    parameters: GenerationParameters
    seed: int


class Bench:
    """An Engine whose steps the test takes itself."""

    def __init__(self, loaded: Loaded, limits: EngineLimits | None = None) -> None:
        self._defaults = loaded.model.text_decoder.generation_config
        self.engine = Engine(loaded, limits or EngineLimits())
        self.results: dict[int, Result] = {}
        self.cancelled: set[int] = set()

    def close_all(self) -> None:
        """Ends what runs and forgets all results."""
        self.engine.fail_all(GenerationFailed("The test is over."))
        self.results.clear()
        self.cancelled.clear()

    def submit(self, number: int, request: Request, deadline: Deadline = NEVER) -> None:
        longest = request.parameters.max_length or 60
        parameters = resolve(request.parameters, self._defaults, longest, len(request.prompt))

        def finish(result: Result) -> None:
            assert number not in self.results, "a group finished twice"
            self.results[number] = result

        self.engine.submit(
            Group(
                request.pixels, request.prompt, parameters, request.seed, finish,
                lambda: number in self.cancelled, deadline,
            )
        )  # fmt: skip

    def run(self) -> None:
        while not self.engine.idle:
            self.engine.step()
        self.engine.check_integrity()

    def alone(self, request: Request) -> Result:
        self.results.pop(-1, None)
        self.submit(-1, request)
        self.run()
        return self.results.pop(-1)


@torch.inference_mode()
def transformers_result(loaded: Loaded, request: Request) -> list[tuple[list[int], float | None]]:
    """Ids, cut behind the end token, and score of each sequence, by `BlipForConditionalGeneration.generate`."""
    end = loaded.model.config.text_config.sep_token_id
    pixel_values = Normalizer(loaded.mean, loaded.std, loaded.info)(request.pixels)
    torch.manual_seed(request.seed)
    found = loaded.model.generate(
        pixel_values=pixel_values,
        input_ids=torch.tensor([[*request.prompt, 0]], device=pixel_values.device),
        return_dict_in_generate=True,
        output_scores=True,
        **given(request.parameters),
    )
    start = len(request.prompt)
    results = []
    for place, ids in enumerate(found.sequences.tolist()):
        cut = ids[: ids.index(end, start) + 1] if end in ids[start:] else ids
        scores = getattr(found, "sequences_scores", None)
        results.append((cut, None if scores is None else float(scores[place])))
    return results


def ids(result: Result) -> list[list[int]]:
    """The token ids of all sequences; scores may differ in their last digit from batch to batch."""
    assert isinstance(result, list), result
    return [found.ids for found in result]


def random_request(rng: random.Random, pictures: list[Pixels], start: int, vocabulary: int) -> Request:
    """A request with parameters from all over their ranges."""
    beams, sample = rng.choice((1, 1, 2, 3, 4, 7, 8)), rng.random() < 0.6
    new = rng.choice((1, 2, 8, 25))
    # Ids above the special ones.
    prompt = [start, *(rng.randrange(6, min(vocabulary, 100)) for _ in range(rng.choice((0, 1, 3, 12))))]
    parameters = GenerationParameters(
        max_length=len(prompt) + new,
        min_length=rng.choice((None, None, len(prompt) + 6)),
        num_beams=beams,
        do_sample=sample,
        temperature=rng.choice((None, 0.8, 1.5, 3.0)) if sample else None,
        top_k=rng.choice((None, 0, 5, 50)) if sample else None,
        top_p=rng.choice((None, 0.9, 0.5)) if sample else None,
        repetition_penalty=rng.choice((None, 1.2, 1.8)),
        no_repeat_ngram_size=rng.choice((None, 1, 2, 4)),
        length_penalty=rng.choice((None, 3.0, 0.0, -1.0)) if beams > 1 else None,
        early_stopping=rng.choice((None, True, False, "never")) if beams > 1 else None,
        num_return_sequences=rng.choice((None, 1, 2)) if beams > 1 or sample else None,
    )
    return Request(rng.choice(pictures), prompt, parameters, rng.randrange(10**6))


def random_pictures(size: int, count: int) -> list[Pixels]:
    rng = random.Random(7)
    return [Pixels(f"picture {n}", size, size, rng.randbytes(size * size * 3)) for n in range(count)]
