"""GPT-2: layer norms first, learned positions, projections stored [inputs, outputs], one for queries, keys, values."""

from typing import Final

from worker.shards.families.activations import read_activation
from worker.shards.families.names import Family, Section, WeightNames
from worker.shards.settings import Settings
from worker.shards.spec import ModelSpec, NormKind

NAMES: Final = WeightNames(
    prefixes=("transformer.", ""),
    word_embedding="wte",
    position_embedding="wpe",
    layer="h.{}.",
    attention_norm="ln_1",
    query=Section(name="attn.c_attn", index=0, count=3),
    key=Section(name="attn.c_attn", index=1, count=3),
    value=Section(name="attn.c_attn", index=2, count=3),
    out="attn.c_proj",
    mlp_norm="ln_2",
    up="mlp.c_fc",
    down="mlp.c_proj",
    transposed=True,
    final_norm="ln_f",
)


def read_gpt2(settings: Settings) -> ModelSpec:
    """Read a GPT-2's config."""
    settings.refuse("add_cross_attention", "which is not served")
    settings.refuse("scale_attn_by_inverse_layer_idx", "which is not served")
    if not settings.flag("scale_attn_weights", True):
        raise settings.wrong("scale_attn_weights", "must be true to be served")
    hidden_size = settings.integer("n_embd", 768)
    num_heads = settings.integer("n_head", 12)
    num_layers = settings.integer("n_layer", 12)
    max_length = settings.integer("n_positions", 1024)
    return ModelSpec(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=settings.divide("n_embd", hidden_size, num_heads),
        ffn_size=settings.integer("n_inner", 4 * hidden_size),
        vocab_size=settings.integer("vocab_size", 50_257),
        max_length=max_length,
        embedding_size=hidden_size,
        norm=NormKind.LAYER,
        norm_eps=settings.number("layer_norm_epsilon", 1e-5),
        norm_first=True,
        activation=read_activation(settings, "activation_function", "gelu_new"),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        sliding_windows=(None,) * num_layers,
        num_positions=max_length,
        tied_head=settings.flag("tie_word_embeddings", True),
    )


GPT2: Final = Family(read=read_gpt2, names=NAMES)
