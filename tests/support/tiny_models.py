"""Tiny models with random weights, made and saved by transformers; sizes are odd on purpose."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers import PreTrainedModel

VOCAB_SIZE: Final = 131
MAX_LENGTH: Final = 64

_ENCODER: Final = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 36,
    "intermediate_size": 67,
    "num_hidden_layers": 3,
    "num_attention_heads": 9,
    "max_position_embeddings": MAX_LENGTH,
}
_SHARED: Final = {**_ENCODER, "num_key_value_heads": 3}
_LLAMA: Final = {**_SHARED, "head_dim": 4}
_OPT: Final = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 36,
    "ffn_dim": 67,
    "num_hidden_layers": 3,
    "num_attention_heads": 9,
    "max_position_embeddings": MAX_LENGTH,
}
_GPT2: Final = {
    "vocab_size": VOCAB_SIZE,
    "n_embd": 36,
    "n_inner": 67,
    "n_layer": 3,
    "n_head": 9,
    "n_positions": MAX_LENGTH,
}

# By name: the class of transformers and its configuration.
DECODERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "llama": ("LlamaForCausalLM", _LLAMA),
    "llama-biased-tied": (
        "LlamaForCausalLM",
        {**_LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 5}),
    "qwen2": ("Qwen2ForCausalLM", _SHARED),
    "qwen2-windows": (
        "Qwen2ForCausalLM",
        {**_SHARED, "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", {**_SHARED, "head_dim": 8}),
    "opt": ("OPTForCausalLM", _OPT),
    "opt-350m": ("OPTForCausalLM", {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 20}),
    "opt-bare": ("OPTForCausalLM", {**_OPT, "enable_bias": False, "layer_norm_elementwise_affine": False}),
    "gpt2": ("GPT2LMHeadModel", _GPT2),
}
BASES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bert-base": ("BertModel", _ENCODER),
    "bert-masked": ("BertForMaskedLM", _ENCODER),
    "roberta-base": ("RobertaModel", {**_ENCODER, "pad_token_id": 1}),
    "xlm-roberta-base": ("XLMRobertaModel", {**_ENCODER, "pad_token_id": 1}),
    "llama-base": ("LlamaModel", _LLAMA),
    "gpt2-base": ("GPT2Model", _GPT2),
    "opt-350m-base": ("OPTModel", {**_OPT, "do_layer_norm_before": False, "word_embed_proj_dim": 20}),
}
CLASSIFIERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "bert-classifier": ("BertForSequenceClassification", {**_ENCODER, "num_labels": 5}),
    "bert-cross-encoder": ("BertForSequenceClassification", {**_ENCODER, "num_labels": 1}),
    "roberta-classifier": ("RobertaForSequenceClassification", {**_ENCODER, "num_labels": 5, "pad_token_id": 1}),
    "roberta-cross-encoder": ("RobertaForSequenceClassification", {**_ENCODER, "num_labels": 1, "pad_token_id": 1}),
    "llama-classifier": ("LlamaForSequenceClassification", {**_LLAMA, "num_labels": 5}),
    "qwen3-cross-encoder": ("Qwen3ForSequenceClassification", {**_SHARED, "head_dim": 8, "num_labels": 1}),
    "gpt2-classifier": ("GPT2ForSequenceClassification", {**_GPT2, "num_labels": 5}),
    "opt-classifier": ("OPTForSequenceClassification", {**_OPT, "num_labels": 5}),
}
MODELS: Final = {**DECODERS, **BASES, **CLASSIFIERS}

MakeModel = Callable[[str], tuple[Path, PreTrainedModel]]


def make_model(folder: Path, class_name: str, settings: dict[str, Any], **save: Any) -> PreTrainedModel:
    """Make a model of transformers with random weights, norms and biases included, and save it to a folder."""
    kind = getattr(transformers, class_name)
    torch.manual_seed(0)
    model: PreTrainedModel = kind(kind.config_class(**settings)).eval()
    for name, parameter in model.named_parameters():
        is_norm_weight = parameter.dim() == 1 and not name.endswith("bias")
        torch.nn.init.normal_(parameter, mean=float(is_norm_weight), std=0.1)
    model.save_pretrained(folder, **save)
    return model


def model_maker(root: Path) -> MakeModel:
    """Return a function that makes the named model under `root` once."""

    @cache
    def make(name: str) -> tuple[Path, PreTrainedModel]:
        class_name, settings = MODELS[name]
        return root / name, make_model(root / name, class_name, settings)

    return make


def token_ids(*lengths: int) -> list[list[int]]:
    """Return inputs of the given lengths, all different, without special tokens."""
    return [[5 + (7 * place * length + 3 * place + length) % 120 for place in range(length)] for length in lengths]


def copy_model(folder: Path, target: Path, **changes: Any) -> Path:
    """Copy a model's folder, with settings changed as by `rewrite_config`."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    if changes:
        rewrite_config(target, **changes)
    return target


def rewrite_config(folder: Path, **changes: Any) -> None:
    """Change settings of a folder's config.json; None removes one."""
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in settings.items() if value is not None}))
