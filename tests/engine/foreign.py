"""Tiny random captioners of other families, in the files that their real ones have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    GPT2Config,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)

WORDS = (
    "a", "dog", "cat", "on", "in", "the", "of", "photo", "picture", "image", "red", "large", "describe", "this", "what",
    "is", "user", "assistant", ":", ".", "<", ">",
)  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
CHAT = (
    "{% for message in messages %}{{ message['role'] }} : {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def words(*special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of a few words, with the special tokens of a family behind the usual ones."""
    usual = ["<pad>", "<s>", "</s>", "<unk>"]
    vocabulary = {word: number for number, word in enumerate([*usual, *special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=list(special),
        extra_special_tokens={"image_token": "<image>"} if "<image>" in special else {},
    )


def git(directory: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *WORDS])}
    tokenizer = BertTokenizer(vocab=vocabulary)
    config = GitConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 16},
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    GitForCausalLM(config).save_pretrained(str(directory))
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    GitProcessor(images, tokenizer).save_pretrained(str(directory))


def vision_encoder_decoder(directory: Path) -> None:
    """As nlpconnect/vit-gpt2-image-captioning."""
    tokenizer = words()
    vision = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    text = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, add_cross_attention=True,
        is_decoder=True, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 1, 0, 2
    VisionEncoderDecoderModel(config=config).save_pretrained(str(directory))
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(str(directory))
    tokenizer.save_pretrained(str(directory))


def florence2(directory: Path) -> None:
    places = ["<image>", "<loc>", "</loc>"]
    tokenizer = words(*places)
    config = Florence2Config(
        vision_config={
            "embed_dim": [16, 16], "num_heads": [2, 2], "num_groups": [2, 2], "depths": [1, 1], "window_size": 2,
            "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True],
            "projection_dim": 16, "max_temporal_embeddings": 4, "max_position_embeddings": 16,
        },
        text_config={
            "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
            "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
            "decoder_start_token_id": 2, "forced_bos_token_id": 1, "forced_eos_token_id": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), is_encoder_decoder=True, projection_dim=16,
    )  # fmt: skip
    Florence2ForConditionalGeneration(config).save_pretrained(str(directory))
    images = CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False, do_resize=True)
    images.image_seq_length = 65
    Florence2Processor(images, tokenizer).save_pretrained(str(directory))


def blip_2(directory: Path) -> None:
    tokenizer = words()
    config = Blip2Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 16},
        qformer_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "encoder_hidden_size": 16, "vocab_size": 32,
        },
        text_config={
            "model_type": "opt", "vocab_size": len(tokenizer) + 1, "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 128, "word_embed_proj_dim": 16,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        num_query_tokens=4, image_token_index=len(tokenizer),
    )  # fmt: skip
    Blip2ForConditionalGeneration(config).save_pretrained(str(directory))
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    Blip2Processor(images, tokenizer, num_query_tokens=4).save_pretrained(str(directory))


def instruct_blip(directory: Path) -> None:
    tokenizer, asking = words(), words()
    config = InstructBlipConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 16},
        qformer_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
            "encoder_hidden_size": 16, "vocab_size": len(asking), "max_position_embeddings": 64,
        },
        text_config={**TEXT, "vocab_size": len(tokenizer) + 1, "model_type": "llama", "num_key_value_heads": 2},
        num_query_tokens=4, image_token_index=len(tokenizer),
    )  # fmt: skip
    InstructBlipForConditionalGeneration(config).save_pretrained(str(directory))
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    InstructBlipProcessor(images, tokenizer, asking, num_query_tokens=4).save_pretrained(str(directory))


def llava(directory: Path) -> None:
    tokenizer = words("<image>")
    config = LlavaConfig(
        vision_config={**VISION, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 16},
        text_config={**TEXT, "vocab_size": len(tokenizer), "model_type": "llama", "num_key_value_heads": 2},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), vision_feature_layer=-1,
    )  # fmt: skip
    LlavaForConditionalGeneration(config).save_pretrained(str(directory))
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", image_token="<image>",
        num_additional_image_tokens=1, chat_template=CHAT,
    )  # fmt: skip
    processor.save_pretrained(str(directory))


def paligemma(directory: Path) -> None:
    tokenizer = words("<image>")
    config = PaliGemmaConfig(
        vision_config={
            **VISION, "model_type": "siglip_vision_model", "image_size": 32, "patch_size": 16, "projection_dim": 16,
        },
        text_config={
            **TEXT, "vocab_size": len(tokenizer), "model_type": "gemma", "head_dim": 8, "num_key_value_heads": 1,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projection_dim=16, hidden_size=16,
    )  # fmt: skip
    PaliGemmaForConditionalGeneration(config).save_pretrained(str(directory))
    images = SiglipImageProcessor(size={"height": 32, "width": 32})
    images.image_seq_length = 4
    PaliGemmaProcessor(images, tokenizer).save_pretrained(str(directory))


BUILD: dict[str, Callable[[Path], None]] = {
    "git": git,
    "vision-encoder-decoder": vision_encoder_decoder,
    "florence2": florence2,
    "blip-2": blip_2,
    "instructblip": instruct_blip,
    "llava": llava,
    "paligemma": paligemma,
}


def build(family: str, directory: Path) -> Path:
    torch.manual_seed(0)
    BUILD[family](directory)
    return directory
