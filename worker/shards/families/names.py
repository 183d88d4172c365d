"""What a family says of itself: a reader of config.json and the names of its weights."""

from collections.abc import Callable
from dataclasses import dataclass

from worker.shards.settings import Settings
from worker.shards.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A projection inside a stored matrix: part `index` of `count` equal parts along its outputs."""

    name: str
    index: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNames:
    """What a family's checkpoints call their tensors, without `.weight` and `.bias`; empty for what it never has."""

    prefixes: tuple[str, ...]  # that base tensors may carry, the usual one first
    word_embedding: str
    position_embedding: str = ""
    type_embedding: str = ""
    embedding_norm: str = ""
    project_in: str = ""  # from the embeddings' width to the layers'
    project_out: str = ""  # and back
    layer: str  # prefix of a layer's tensors, with {} for its number
    attention_norm: str  # in the layer: before attention, or after it where norms come last
    query: Section
    key: Section
    value: Section
    query_norm: str = ""
    key_norm: str = ""
    out: str
    mlp_norm: str  # in the layer: before the MLP, or after it where norms come last
    gate: str = ""
    up: str
    down: str
    transposed: bool = False  # whether projections are stored [inputs, outputs]
    final_norm: str = ""
    language_head: str = "lm_head"
    classifier_dense: str = ""
    classifier: str = "score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One family: `read` gives a spec without head, labels, pooling and tasks."""

    read: Callable[[Settings], ModelSpec]
    names: WeightNames
