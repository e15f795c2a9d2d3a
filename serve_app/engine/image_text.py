"""The engine `transformers`: every image-to-text model that transformers loads without remote code."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedModel,
    StoppingCriteriaList,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from serve_app.engine.checkpoint import check_files, digest, find, read_json, shown_name
from serve_app.engine.families import CHAT, FAMILIES, Family
from serve_app.engine.loading import check_memory, device_called, first_line, onto, weights
from serve_app.engine.parameters import given
from serve_app.engine.precision import Precision
from serve_app.engine.sequential import Interrupt, SequentialGenerator, seeded
from serve_app.errors import InvalidOption, ModelIncomplete, ModelUnsupported, PromptTooLong
from serve_app.types import Generated, GenerateJob, GenerationParameters, ModelInfo, Pixels

TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
POOLER = ".pooler."
"""In the names of a vision encoder's tensors that no caption uses; many checkpoints lack them."""
NEW_TOKENS = 150
"""Most tokens of an answer unless the parameters say so."""
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length")


@dataclass(frozen=True)
class Captioner:
    """A model of any family, ready to run."""

    model: PreTrainedModel
    processor: Any
    """Makes the model's inputs of a picture and a text; of a family without prompts of pictures alone."""
    tokenizer: Any
    family: Family
    info: ModelInfo


def family_of(config: dict[str, Any], directory: Path, model: str, prompts: tuple[str, ...] = ()) -> Family:
    """How a checkpoint is asked; `prompts` are the settings' own. Raises `ModelUnsupported`."""
    kind = str(config.get("model_type"))
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        remote = " without code of its own, which is never run" if "auto_map" in config else ""
        raise ModelUnsupported(f"The checkpoint {model!r} is {kind!r}, no image-to-text model of transformers{remote}.")
    known = FAMILIES.get(kind) or (CHAT if _has_template(directory, model) else None)
    if known is None and not prompts:
        raise ModelUnsupported(
            f"The checkpoint {model!r} is of the family {kind!r} and has no chat template: "
            "say with the setting variant_prompts how it is asked."
        )
    known = known or Family("task", prompts)
    return replace(known, prompts=prompts) if prompts else known


def _has_template(directory: Path, model: str) -> bool:
    if any((directory / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    files = [directory / name for name in ("processor_config.json", "tokenizer_config.json")]
    return any("chat_template" in read_json(file, model) for file in files if file.is_file())


def info_of(model: str, family: Family) -> ModelInfo:
    """What is known of a captioner before it is loaded."""
    return ModelInfo(
        shown_name(model), family.longest, family.longest, 0, "", "",
        fit="longest", prompts=family.prompts, continues=family.continues, chats=family.is_language_model,
    )  # fmt: skip


def load_any(
    model: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    prompts: tuple[str, ...] = (),
) -> Captioner:
    """Loads a captioner of any family from safetensors, never with remote code.

    `dtype` and `device` as in `load`; without int8 and fp8. Raises `ModelError`s, each with one sentence.
    """
    if dtype in ("int8", "fp8"):
        raise ModelUnsupported(f"The transformers engine has no {dtype}; use float32 or bfloat16.")
    target = device_called(device)
    precision = Precision.of(dtype, target)
    directory = find(model, revision)
    config = read_json(directory / "config.json", model)
    family = family_of(config, directory, model, prompts)
    check_files(directory, model, TOKENIZER_FILES)
    check_memory(directory, model, precision.dtype, target)
    processor, tokenizer = _processors(directory, model, family)
    network: PreTrainedModel = onto(
        target, weights(AutoModelForImageTextToText, directory, model, precision.dtype, POOLER), model
    )
    info = replace(
        info_of(model, family),
        max_positions=_positions(network.config),
        dtype=precision.name,
        device=str(target),
        revision=digest(directory),
    )
    return Captioner(network, processor, tokenizer, family, info)


def _processors(directory: Path, model: str, family: Family) -> tuple[Any, Any]:
    settings = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), **settings)
        kind: Any = AutoImageProcessor if family.form == "none" else AutoProcessor
        processor = kind.from_pretrained(str(directory), **settings)
    except ImportError as error:
        raise ModelUnsupported(f"The checkpoint {model!r} needs another package: {first_line(error)}") from error
    except Exception as error:  # as of tokenizers: errors of many kinds for broken files
        raise ModelIncomplete(
            f"The processor of the checkpoint {model!r} is not readable: {first_line(error)}"
        ) from error
    if family.form == "chat":
        processor.chat_template = processor.chat_template or tokenizer.chat_template
    return processor, tokenizer


def _positions(config: Any) -> int:
    """Tokens that the text part takes, its prompt and the image's included."""
    text = config.get_text_config(decoder=True)
    return next((int(found) for name in _POSITIONS if (found := getattr(text, name, None))), 2048)


class ImageTextGenerator(SequentialGenerator):
    """Generator over the `generate` of any image-to-text model."""

    def __init__(self, captioner: Captioner) -> None:
        super().__init__(captioner.info)
        self._captioner = captioner
        self._taken = frozenset(inspect.signature(captioner.model.forward).parameters)
        model, tokenizer = captioner.model, captioner.tokenizer
        ends, start = model.generation_config.eos_token_id, model.generation_config.decoder_start_token_id
        model.generation_config.max_length = None  # every call says how many new tokens; both would be warned of
        if not model.config.is_encoder_decoder:
            tokenizer.padding_side = "left"  # what a row generates stands behind its prompt
            if (inner := getattr(captioner.processor, "tokenizer", None)) is not None:
                inner.padding_side = "left"
        self._closing = {tokenizer.sep_token_id, tokenizer.eos_token_id} - {None}
        self._ends = frozenset(self._closing if ends is None else [ends] if isinstance(ends, int) else ends)
        self._starts = frozenset((start, model.generation_config.bos_token_id, tokenizer.cls_token_id)) - {None}

    def generated(self, pixels: Pixels, job: GenerateJob, interrupt: Interrupt) -> Generated:
        (found,) = self._generated(pixels, [job], interrupt)
        return found

    def together(self, pixels: Pixels, jobs: Sequence[GenerateJob], interrupt: Interrupt) -> list[Generated] | None:
        """What is sampled depends on the prompts that run together; the first one's seed fixes it."""
        return self._generated(pixels, jobs, interrupt)

    def _generated(self, pixels: Pixels, jobs: Sequence[GenerateJob], interrupt: Interrupt) -> list[Generated]:
        """Jobs with equal parameters, in one call of `generate`."""
        model: Any = self._captioner.model
        family = self._captioner.family
        image = Image.frombytes("RGB", (pixels.width, pixels.height), pixels.data)
        prompts = [job.prompt or family.prompts[0] for job in jobs]
        made = self._inputs(image, prompts).to(model.device)
        inputs = {name: self._typed(value) for name, value in made.items() if name in self._taken}
        if family.form == "prefix" and "input_ids" in inputs:
            inputs = self._unended(inputs)
        said = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        parameters = self._parameters(jobs[0].parameters, 0 if model.config.is_encoder_decoder else max(1, said))
        with seeded(jobs[0].seed, model.device):
            found: Any = model.generate(
                **inputs,
                stopping_criteria=StoppingCriteriaList([interrupt]),
                return_dict_in_generate=True,
                # Those of every step are kept; a sequence has a score with beams only.
                output_scores=(parameters.get("num_beams") or model.generation_config.num_beams or 1) > 1,
                **parameters,
            )
        interrupt.check()
        scores: Any = getattr(found, "sequences_scores", None)
        ids = inputs["input_ids"].tolist() if said else [[]] * len(jobs)
        sequences = found.sequences.tolist()  # those of the first prompt, best first, those of the second, …
        each = len(sequences) // len(jobs)
        results = [
            self._result(
                prompts[place // each], ids[place // each], sequence, None if scores is None else float(scores[place])
            )
            for place, sequence in enumerate(sequences)
        ]
        return [
            replace(results[start], alternatives=tuple(results[start + 1 : start + each]))
            for start in range(0, len(results), each)
        ]

    def _unended(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs whose texts go on: without the token that a tokenizer puts behind them."""
        ends = {int(end) in self._closing for end in inputs["input_ids"][:, -1]}
        if ends == {False}:
            return inputs
        if len(ends) > 1:
            raise ValueError("texts of several lengths don't go on together")
        texts = {name: value for name, value in inputs.items() if name in ("input_ids", "attention_mask")}
        return inputs | {name: value[:, :-1] for name, value in texts.items()}

    def _typed(self, value: Any) -> Any:
        floats = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.to(self._captioner.model.dtype) if floats else value

    def _inputs(self, image: Image.Image, prompts: Sequence[str]) -> Any:
        """The model's inputs, tensors by name, a row for each prompt. Raises `InvalidOption` for a refused prompt."""
        for prompt in prompts:
            if prompt not in self._captioner.family.prompts and any(
                token in prompt for token in self._captioner.tokenizer.all_special_tokens
            ):
                raise InvalidOption(f"prompts: {prompt[:60]!r} holds a control token of the model.")
        try:
            return self._processed(image, prompts)
        except ValueError as error:
            raise InvalidOption(f"prompts: the model refuses {prompts[0][:60]!r}: {first_line(error)}") from error

    def _processed(self, image: Image.Image, prompts: Sequence[str]) -> Any:
        family, processor = self._captioner.family, self._captioner.processor
        pictures = [image] * len(prompts)
        if family.form == "none" or not any(prompts):
            return processor(images=pictures, return_tensors="pt")
        # Those that begin their caption with the prompt may count positions from a row's first token, padding or not:
        # without padding prompts of several lengths fail here, and run one by one.
        several = {"padding": True} if len(prompts) > 1 and family.is_language_model else {}
        if family.form == "chat":
            contents = ([{"type": "image", "image": image}, {"type": "text", "text": prompt}] for prompt in prompts)
            return processor.apply_chat_template(
                [[{"role": "user", "content": content}] for content in contents],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                **several,
                **({"enable_thinking": False} if "enable_thinking" in str(processor.chat_template) else {}),
            )
        texts = [family.before + prompt for prompt in prompts]
        return processor(images=pictures, text=texts, return_tensors="pt", **several)

    def _parameters(self, parameters: GenerationParameters, prompt_tokens: int) -> dict[str, Any]:
        """What `generate` is given. Lengths count the answer alone: an image may be hundreds of tokens of a prompt."""
        room = self._captioner.info.max_positions - prompt_tokens
        if room < 1:
            raise PromptTooLong(f"The prompt and the image have {prompt_tokens} tokens, more than the model takes.")
        most = min(parameters.max_new_tokens or parameters.max_length or NEW_TOKENS, room)
        least = parameters.min_new_tokens or parameters.min_length
        least = None if least is None else min(least, most)
        chosen = given(replace(parameters, max_length=None, min_length=None, max_new_tokens=most, min_new_tokens=least))
        if self._captioner.family.is_language_model and not self._captioner.model.config.is_encoder_decoder:
            return {name: value for name, value in chosen.items() if name not in _OF_CAPTIONERS} | {"num_beams": 1}
        return chosen

    def _result(self, prompt: str, asked: list[int], sequence: list[int], score: float | None) -> Generated:
        """What a sequence says; of models that give their prompt back, behind it."""
        begins = bool(asked) and sequence[: len(asked)] == asked
        answer = (
            sequence[len(asked) :] if begins else sequence[int(sequence[:1] != [] and sequence[0] in self._starts) :]
        )
        end = next((place for place, token in enumerate(answer) if token in self._ends), None)
        answer = answer if end is None else answer[: end + 1]  # behind it, the longest sequence's length is filled up
        text = str(self._captioner.tokenizer.decode(answer, skip_special_tokens=True))
        text = text.rsplit("</think>", 1)[-1].strip()
        if self._captioner.family.form == "prefix" and begins:
            return Generated(f"{prompt} {text}".strip(), prompt, score, len(answer))
        return Generated(text, "", score, len(answer))


_OF_CAPTIONERS = frozenset(
    ("length_penalty", "early_stopping", "num_return_sequences", "repetition_penalty", "no_repeat_ngram_size")
)
"""Parameters of the presets that small captioners need. A language model's beams cost more than they are worth, and
penalties fall on the words of its prompt too."""
