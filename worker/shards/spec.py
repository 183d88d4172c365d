"""What generic code needs to know of a model: plain values, read from its folder once, without torch."""

from dataclasses import dataclass
from enum import Enum

from liger.domain import Pooling, Task
from liger.errors import ModelFolderError


class NormKind(Enum):
    """How hidden states are normed."""

    LAYER = "layer"
    RMS = "rms"

    @property
    def has_bias(self) -> bool:
        """Tell whether weights of this norm come with biases."""
        return self is NormKind.LAYER


class ActivationKind(Enum):
    """The MLP's nonlinearity."""

    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    RELU = "relu"


class RopeKind(Enum):
    """How rotary frequencies are stretched beyond the length of the first training."""

    DEFAULT = "default"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


class HeadKind(Enum):
    """What stands on the last hidden states."""

    NONE = "none"
    LANGUAGE = "language"
    CLASSIFIER = "classifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeSpec:
    """Rotary positions: the base and, for scaled kinds, the parameters of their papers."""

    theta: float
    kind: RopeKind = RopeKind.DEFAULT
    factor: float = 1.0
    original_max_length: int = 0  # llama3 and yarn: length of the first training, in tokens
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: whether the ramp's borders are rounded to whole dimensions
    attention_factor: float = 1.0  # multiplies cosines and sines


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model's shape, its head and its habits."""

    # shape
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    vocab_size: int
    max_length: int  # longest sequence, in tokens
    embedding_size: int  # width of token embeddings and of outputs; differs from hidden_size in opt-350m alone
    # layers
    norm: NormKind
    norm_eps: float
    norm_first: bool  # norm before attention and MLP (else after their residual sum)
    norm_affine: bool = True  # whether norms have weights
    activation: ActivationKind
    gated_mlp: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMS norm over each query and key head
    causal: bool = True
    sliding_windows: tuple[int | None, ...] = ()  # by layer: keys a token sees, itself included; None sees all
    # before and after the layers
    rope: RopeSpec | None = None
    num_positions: int = 0  # rows of the learned position table; 0 if there is none
    position_offset: int = 0  # row of position 0 in that table
    num_token_types: int = 0  # rows of the token type table; 0 if there is none
    embedding_norm: bool = False
    final_norm: bool = True
    tied_head: bool = False
    # what it is for
    architecture: str = ""  # the class named in config.json
    head: HeadKind = HeadKind.NONE
    classifier_dense: bool = False  # whether tanh(dense(x)) comes before the classifier
    classifier_bias: bool = False
    classifier_pooling: Pooling = Pooling.CLS  # which row the classifier reads: CLS the first, LAST the last
    labels: tuple[str, ...] = ()  # by class index; empty without a classifier
    multi_label: bool = False
    eos_token_ids: tuple[int, ...] = ()
    default_pooling: Pooling = Pooling.MEAN
    default_normalize: bool = False
    tasks: tuple[Task, ...] = ()

    @property
    def output_size(self) -> int:
        """Return the width of what `Shard.finish` gives, hence of embeddings."""
        return self.embedding_size

    def __post_init__(self) -> None:
        """Check that the numbers fit one another.

        Raises:
            ModelFolderError: They do not.
        """
        if self.num_heads % self.num_kv_heads:
            raise ModelFolderError(
                f"config.json names {self.num_heads} query heads and {self.num_kv_heads} key-value heads, and the "
                "first must be a multiple of the second: take config.json from the model's source again"
            )
        if self.rope and self.head_dim % 2:
            raise ModelFolderError(
                f"config.json gives rotary heads an odd width of {self.head_dim}: take it from the source again"
            )
        if len(self.sliding_windows) != self.num_layers:
            raise ModelFolderError(
                f"config.json describes {len(self.sliding_windows)} layers in layer_types, not {self.num_layers}: "
                "take it from the model's source again"
            )
