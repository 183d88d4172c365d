"""The shapes of models that are measured; no torch."""

from dataclasses import dataclass
from typing import Any, Final

VOCABULARY_SIZE: Final = 4096  # small, so that embeddings and head hardly count
_BYTES: Final = 2  # of a weight as it is served


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A Llama's layers, and how many the real model has."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    real_layers: int

    @property
    def real_bytes(self) -> int:
        """Memory of the real model's layers."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        return _BYTES * self.real_layers * (attention + 3 * self.hidden * self.ffn)


SHAPES: Final = {
    "8b": ModelShape(hidden=4096, ffn=14336, heads=32, kv_heads=8, head_dim=128, real_layers=32),
    "70b": ModelShape(hidden=8192, ffn=28672, heads=64, kv_heads=8, head_dim=128, real_layers=80),
    "tiny": ModelShape(hidden=64, ffn=128, heads=8, kv_heads=4, head_dim=8, real_layers=4),
    "small": ModelShape(hidden=512, ffn=1408, heads=8, kv_heads=4, head_dim=64, real_layers=8),
}


def model_config(shape: ModelShape, num_layers: int, max_length: int) -> dict[str, Any]:
    """Return the config.json of a Llama of such a shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": num_layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": max_length,
        "vocab_size": VOCABULARY_SIZE,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500_000.0,
    }


def input_lengths(num_tokens: int) -> tuple[int, ...]:
    """Return the inputs of a batch: of 256 tokens each, of 128 where the batch is no larger."""
    length = 256 if num_tokens > 128 else 128
    whole, rest = divmod(num_tokens, length)
    return (length,) * whole + (rest,) * bool(rest)
