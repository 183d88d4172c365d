"""Llama, Mistral, Qwen2 and Qwen3 (SmolLM2 is Llama): RMS norms first, rotary positions, gated MLP."""

from dataclasses import replace
from typing import Final

from worker.shards.families.activations import read_activation
from worker.shards.families.names import Family, Section, WeightNames
from worker.shards.families.rope import read_rope
from worker.shards.settings import Settings
from worker.shards.spec import ModelSpec, NormKind

NAMES: Final = WeightNames(
    prefixes=("model.", ""),
    word_embedding="embed_tokens",
    layer="layers.{}.",
    attention_norm="input_layernorm",
    query=Section(name="self_attn.q_proj"),
    key=Section(name="self_attn.k_proj"),
    value=Section(name="self_attn.v_proj"),
    query_norm="self_attn.q_norm",
    key_norm="self_attn.k_norm",
    out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    final_norm="norm",
)


def read_llama(settings: Settings) -> ModelSpec:
    """Read a Llama's config."""
    bias = settings.flag("attention_bias", False)
    spec = _read(settings, default_kv_heads=None, default_head_dim=None, default_max_length=2048)
    return replace(spec, qkv_bias=bias, out_bias=bias, mlp_bias=settings.flag("mlp_bias", False))


def read_mistral(settings: Settings) -> ModelSpec:
    """Read a Mistral's config: one sliding window for all layers; 4,096 where none is named."""
    spec = _read(settings, default_kv_heads=8, default_head_dim=None, default_max_length=131_072)
    window = settings.raw("sliding_window", 4096)
    if window is not None:
        window = settings.integer("sliding_window", 4096)
    return replace(spec, sliding_windows=(window,) * spec.num_layers)


def read_qwen2(settings: Settings) -> ModelSpec:
    """Read a Qwen2's config: biases on queries, keys and values alone."""
    spec = _read(settings, default_kv_heads=32, default_head_dim=None, default_max_length=32_768)
    return replace(spec, qkv_bias=True, sliding_windows=_read_windows(settings, spec.num_layers))


def read_qwen3(settings: Settings) -> ModelSpec:
    """Read a Qwen3's config: normed queries and keys, heads of their own width."""
    bias = settings.flag("attention_bias", False)
    spec = _read(settings, default_kv_heads=32, default_head_dim=128, default_max_length=32_768)
    windows = _read_windows(settings, spec.num_layers)
    return replace(spec, qkv_bias=bias, out_bias=bias, qk_norm=True, sliding_windows=windows)


def _read(
    settings: Settings, *, default_kv_heads: int | None, default_head_dim: int | None, default_max_length: int
) -> ModelSpec:
    hidden_size = settings.integer("hidden_size")
    num_heads = settings.integer("num_attention_heads")
    num_layers = settings.integer("num_hidden_layers")
    fallback_kv_heads = settings.raw("num_key_value_heads", default_kv_heads) or num_heads  # null means num_heads
    max_length = settings.integer("max_position_embeddings", default_max_length)
    return ModelSpec(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=settings.integer("num_key_value_heads", fallback_kv_heads),
        head_dim=settings.integer("head_dim", default_head_dim or hidden_size // num_heads),
        ffn_size=settings.integer("intermediate_size"),
        vocab_size=settings.integer("vocab_size"),
        max_length=max_length,
        embedding_size=hidden_size,
        norm=NormKind.RMS,
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        norm_first=True,
        activation=read_activation(settings, "hidden_act", "silu"),
        gated_mlp=True,
        rope=read_rope(settings, max_length),
        tied_head=settings.flag("tie_word_embeddings", False),
        sliding_windows=(None,) * num_layers,
    )


def _read_windows(settings: Settings, num_layers: int) -> tuple[int | None, ...]:
    if not settings.flag("use_sliding_window", False):
        return (None,) * num_layers
    window = settings.integer("sliding_window", 4096)
    kinds = settings.strings("layer_types")
    if not kinds:
        first = settings.integer("max_window_layers", 28, at_least=0)
        kinds = ("full_attention",) * min(first, num_layers) + ("sliding_attention",) * (num_layers - first)
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise settings.wrong("layer_types", f"must hold full_attention and sliding_attention only, not {unknown.pop()}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


LLAMA: Final = Family(read=read_llama, names=NAMES)
MISTRAL: Final = Family(read=read_mistral, names=NAMES)
QWEN2: Final = Family(read=read_qwen2, names=NAMES)
QWEN3: Final = Family(read=read_qwen3, names=NAMES)
