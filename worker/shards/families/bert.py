"""BERT, RoBERTa and XLM-RoBERTa: encoders with norms last, learned positions and token types."""

from dataclasses import replace
from typing import Final

from worker.shards.families.activations import read_activation
from worker.shards.families.names import Family, Section, WeightNames
from worker.shards.settings import Settings
from worker.shards.spec import ModelSpec, NormKind

BERT_NAMES: Final = WeightNames(
    prefixes=("bert.", ""),
    word_embedding="embeddings.word_embeddings",
    position_embedding="embeddings.position_embeddings",
    type_embedding="embeddings.token_type_embeddings",
    embedding_norm="embeddings.LayerNorm",
    layer="encoder.layer.{}.",
    attention_norm="attention.output.LayerNorm",
    query=Section(name="attention.self.query"),
    key=Section(name="attention.self.key"),
    value=Section(name="attention.self.value"),
    out="attention.output.dense",
    mlp_norm="output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    classifier_dense="pooler.dense",
    classifier="classifier",
)

ROBERTA_NAMES: Final = replace(
    BERT_NAMES,
    prefixes=("roberta.", ""),
    classifier_dense="classifier.dense",
    classifier="classifier.out_proj",
)


def read_bert(settings: Settings) -> ModelSpec:
    """Read a BERT's config."""
    settings.refuse("is_decoder", "which makes a decoder of an encoder: that is not served")
    settings.refuse("add_cross_attention", "which is not served")
    positions = settings.text("position_embedding_type", "absolute")
    if positions != "absolute":
        raise settings.wrong("position_embedding_type", "must be absolute to be served")
    hidden_size = settings.integer("hidden_size")
    num_heads = settings.integer("num_attention_heads")
    num_layers = settings.integer("num_hidden_layers")
    num_positions = settings.integer("max_position_embeddings", 512)
    return ModelSpec(
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=settings.divide("hidden_size", hidden_size, num_heads),
        ffn_size=settings.integer("intermediate_size"),
        vocab_size=settings.integer("vocab_size"),
        max_length=num_positions,
        embedding_size=hidden_size,
        norm=NormKind.LAYER,
        norm_eps=settings.number("layer_norm_eps", 1e-12),
        norm_first=False,
        activation=read_activation(settings, "hidden_act", "gelu"),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        causal=False,
        sliding_windows=(None,) * num_layers,
        num_positions=num_positions,
        num_token_types=settings.integer("type_vocab_size", 2),
        embedding_norm=True,
        final_norm=False,
        classifier_dense=True,
        classifier_bias=True,
    )


def read_roberta(settings: Settings) -> ModelSpec:
    """Read a RoBERTa's config: position 0 is the row after the padding token's id."""
    spec = read_bert(settings)
    offset = settings.integer("pad_token_id", 1, at_least=0) + 1
    if spec.num_positions <= offset:
        raise settings.wrong("max_position_embeddings", f"must be above {offset}, as positions start at that row")
    return replace(spec, position_offset=offset, max_length=spec.num_positions - offset)


BERT: Final = Family(read=read_bert, names=BERT_NAMES)
ROBERTA: Final = Family(read=read_roberta, names=ROBERTA_NAMES)
