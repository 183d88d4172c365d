"""What the gateway knows of a model."""

from dataclasses import dataclass

from liger.domain import Pooling, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a model is and can do (liger.v1.ModelInfo)."""

    name: str
    architecture: str
    tasks: frozenset[Task]
    max_length: int  # tokens, prompt and output together
    vocabulary_size: int
    hidden_size: int
    num_layers: int
    labels: tuple[str, ...]  # of the classification head, by class index
    default_pooling: Pooling
    default_normalize: bool
    eos_token_ids: tuple[int, ...]
    dtype: str
    fingerprint: str
    multi_label: bool  # several labels may hold at once
    num_token_types: int  # above 1 if pairs carry segment ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model of the cluster and how many groups serve it now."""

    model: Model
    num_groups: int  # 0 while all are forming
