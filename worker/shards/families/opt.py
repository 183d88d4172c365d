"""OPT: layer norms, first or (350m) last, learned positions from row 2, ReLU; narrower embeddings in 350m."""

from typing import Final

from worker.shards.families.activations import read_activation
from worker.shards.families.names import Family, Section, WeightNames
from worker.shards.settings import Settings
from worker.shards.spec import ModelSpec, NormKind

_NORM_EPS: Final = 1e-5
_POSITION_OFFSET: Final = 2

NAMES: Final = WeightNames(
    prefixes=("model.decoder.", "decoder.", ""),
    word_embedding="embed_tokens",
    position_embedding="embed_positions",
    project_in="project_in",
    project_out="project_out",
    layer="layers.{}.",
    attention_norm="self_attn_layer_norm",
    query=Section(name="self_attn.q_proj"),
    key=Section(name="self_attn.k_proj"),
    value=Section(name="self_attn.v_proj"),
    out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    up="fc1",
    down="fc2",
    final_norm="final_layer_norm",
)


def read_opt(settings: Settings) -> ModelSpec:
    """Read an OPT's config."""
    hidden_size = settings.integer("hidden_size", 768)
    num_heads = settings.integer("num_attention_heads", 12)
    num_layers = settings.integer("num_hidden_layers", 12)
    max_length = settings.integer("max_position_embeddings", 2048)
    norm_first = settings.flag("do_layer_norm_before", True)
    has_bias = settings.flag("enable_bias", True)
    return ModelSpec(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=settings.divide("hidden_size", hidden_size, num_heads),
        ffn_size=settings.integer("ffn_dim", 3072),
        vocab_size=settings.integer("vocab_size", 50_272),
        max_length=max_length,
        embedding_size=settings.integer("word_embed_proj_dim", hidden_size),
        norm=NormKind.LAYER,
        norm_eps=_NORM_EPS,
        norm_first=norm_first,
        norm_affine=settings.flag("layer_norm_elementwise_affine", True),
        activation=read_activation(settings, "activation_function", "relu"),
        qkv_bias=has_bias,
        out_bias=has_bias,
        mlp_bias=has_bias,
        sliding_windows=(None,) * num_layers,
        num_positions=max_length + _POSITION_OFFSET,
        position_offset=_POSITION_OFFSET,
        final_norm=norm_first and not settings.flag("_remove_final_layer_norm", False),
        tied_head=settings.flag("tie_word_embeddings", True),
    )


OPT: Final = Family(read=read_opt, names=NAMES)
