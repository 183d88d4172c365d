"""The weights of a rank's slice, as the shard uses them."""

from dataclasses import dataclass

from torch import Tensor

from worker.shards.linear import Linear
from worker.shards.norm import Norm


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingWeights:
    """The whole tables: each rank looks up for itself."""

    tokens: Tensor  # [vocab_size, embedding_size]
    positions: Tensor | None  # [num_positions, hidden_size]
    token_types: Tensor | None  # [num_token_types, hidden_size]
    project_in: Linear | None  # embedding_size to hidden_size


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWeights:
    """A rank's slice of one layer; norms and the biases of row-parallel projections are whole."""

    attention_norm: Norm | None  # what is done to the residual sum before attention
    qkv: Linear  # hidden_size to (heads + 2 kv_heads) * head_dim, queries first
    qk_scale: Tensor | None  # [heads + kv_heads, head_dim]: weights of the norms of queries and keys
    out: Linear  # heads * head_dim to hidden_size, partial sums
    out_bias: Tensor | None  # [hidden_size], added once, after the exchange
    mlp_norm: Norm | None  # what is done to the residual sum before the MLP
    up: Linear  # hidden_size to columns, or to 2 * columns with the gate's first
    down: Linear  # columns to hidden_size, partial sums
    down_bias: Tensor | None  # [hidden_size], added once, after the exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadWeights:
    """What follows the layers."""

    norm: Norm | None  # what is done to the last residual sum
    project_out: Linear | None  # hidden_size to embedding_size
    language: Linear | None  # embedding_size to this rank's rows of the vocabulary
    dense: Linear | None  # of the classifier, whole
    classifier: Linear | None  # embedding_size to labels, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWeights:
    """All that a rank holds."""

    embedding: EmbeddingWeights | None  # with layer 0
    layers: tuple[LayerWeights, ...]
    head: HeadWeights | None  # with the last layer
