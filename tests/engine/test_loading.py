"""Checkpoints that load, and those that must fail with one clear sentence."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipConfig, BlipForConditionalGeneration

from serve_app.engine import load, loading, start
from serve_app.engine.checkpoint import DEMO_DIRECTORY, resolve
from serve_app.engine.precision import Precision
from serve_app.errors import DeviceUnavailable, ModelIncomplete, ModelNotFound, ModelUnreachable, ModelUnsupported
from serve_app.types import Generated, GenerateJob, GenerationParameters, Pixels

FEW = GenerationParameters(max_new_tokens=3, num_beams=1, do_sample=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DEMO_DIRECTORY, tmp_path / "model"))


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_embedded_model_loads_and_is_small() -> None:
    loaded = load("demo")
    assert (loaded.info.name, loaded.info.image_height, loaded.info.max_positions) == ("demo", 128, 512)
    assert sum(file.stat().st_size for file in DEMO_DIRECTORY.iterdir()) < 12_000_000


def test_answers_do_not_tell_where_a_model_lies(copy: Path) -> None:
    """The name of a directory's model was its whole path, in every answer and in the list of models."""
    assert load(str(copy)).info.name == copy.name


def test_local_directory_loads_like_the_embedded_model(copy: Path) -> None:
    assert load(str(copy)).info.image_width == 128


def test_modelscope_download_with_a_vocabulary_file_loads(copy: Path) -> None:
    """Older checkpoints have vocab.txt and preprocessor_config.json; ModelScope adds configuration.json."""
    vocabulary = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    (copy / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=lambda word: vocabulary[word])))
    (copy / "tokenizer.json").unlink()
    processor = json.loads((copy / "processor_config.json").read_text())
    processor["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (copy / "preprocessor_config.json").write_text(json.dumps(processor["image_processor"]))
    (copy / "processor_config.json").unlink()
    (copy / "configuration.json").write_text('{"framework": "pytorch", "task": "image-captioning"}')
    loaded = load(str(copy))
    assert loaded.mean == (0.5, 0.5, 0.5)
    assert (
        loaded.tokenizer("a photography of two dogs")["input_ids"]
        == load("demo").tokenizer("a photography of two dogs")["input_ids"]
    )


def test_sharded_checkpoint_loads_and_a_missing_shard_is_told(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, copy / file, {"format": "pt"})
    weight_map = {name: file for file, part in halves.items() for name in part}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (copy / "model.safetensors").unlink()
    assert load(str(copy)).info.max_positions == 512
    (copy / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelIncomplete, match="model-00002-of-00002"):
        load(str(copy))


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "nowhere", "a/b/c", "", "~/nowhere"])
def test_missing_path_is_told(name: str) -> None:
    with pytest.raises(ModelNotFound, match="no directory"):
        resolve(name)


def test_hub_id_without_a_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnreachable, match="give its directory"):
        resolve("Salesforce/blip-image-captioning-large-that-is-not-cached")


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
     ({"architectures": ["BlipForQuestionAnswering"]}, "BlipForQuestionAnswering"),
     ({"model_type": "clip", "architectures": None}, "clip")],
)  # fmt: skip
def test_other_architectures_are_told(copy: Path, changes: dict[str, object], told: str) -> None:
    edit_json(copy / "config.json", **changes)
    with pytest.raises(ModelUnsupported, match=told):
        load(str(copy))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file_is_told(copy: Path, file: str) -> None:
    (copy / file).unlink()
    with pytest.raises(ModelIncomplete):
        load(str(copy))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
@pytest.mark.parametrize("share", [0, 0.5, 0.999])
def test_half_downloaded_file_is_told(copy: Path, file: str, share: float) -> None:
    data = (copy / file).read_bytes()
    (copy / file).write_bytes(data[: min(int(len(data) * share), len(data) - 3)])
    with pytest.raises(ModelIncomplete, match="checkpoint"):
        load(str(copy))


def test_weights_that_do_not_fit_the_configuration_are_told(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["vocab_size"] += 7
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelIncomplete, match="does not fit"):
        load(str(copy))


def test_missing_tensors_are_told(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["vision_model.post_layernorm.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelIncomplete, match="lacks 1 tensors"):
        load(str(copy))


def test_pickled_weights_are_not_loaded(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelUnsupported, match="safetensors"):
        load(str(copy))


def test_unknown_devices_and_dtypes_are_told() -> None:
    with pytest.raises(DeviceUnavailable):
        load("demo", device="abacus")
    with pytest.raises(ModelUnsupported):
        load("demo", dtype="int3")
    if not torch.cuda.is_available():
        with pytest.raises(DeviceUnavailable, match="0 GPUs"):
            load("demo", device="cuda")


@pytest.mark.extended
async def test_full_size_blip_goes_through_the_same_loader(tmp_path: Path) -> None:
    """Random weights of BLIP-large's shape: what is proven is the way, not the captions."""
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = BlipConfig(
        vision_config={**vision, "image_size": 384, "patch_size": 16, "initializer_range": 0.02},
        text_config={"encoder_hidden_size": 1024, "num_attention_heads": 12},
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = BlipForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert 440e6 < sum(p.numel() for p in model.parameters()) < 480e6
    model.save_pretrained(str(tmp_path))
    del model
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_DIRECTORY / file, tmp_path / file)
    loaded = load(str(tmp_path), dtype="bfloat16")
    assert (loaded.info.image_height, loaded.info.dtype) == (384, "bfloat16")
    engine = start(loaded)
    pixels = Pixels("grey", 384, 384, bytes([127]) * (384 * 384 * 3))
    (outcome,) = await engine.generate(pixels, [GenerateJob("a photography of", FEW)])
    engine.close()
    assert isinstance(outcome, Generated)
    assert outcome.tokens <= 3


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_gpu_is_called_by_its_number(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """No engine started on a GPU: torch.cuda.set_device refuses a device without an index."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert loading.device_called(name) == torch.device("cuda:2")
    assert loading.device_called("cuda:3") == torch.device("cuda:3")


def test_a_gpu_that_only_emulates_bfloat16_takes_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """T4 and V100 were given bfloat16, which torch says they support, by emulation."""
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert Precision.of("auto", torch.device("cuda:0")).name == "float16"


def test_settings_of_a_checkpoint_that_the_engine_ignores_are_named(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were ignored without a word."""
    edit_json(copy / "generation_config.json", suppress_tokens=[7], encoder_repetition_penalty=1.2)
    start(load(str(copy))).close()
    assert "suppress_tokens=[7]" in caplog.text
    assert "encoder_repetition_penalty=1.2" in caplog.text
