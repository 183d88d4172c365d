"""What a shard calls to attend; built once a batch, called once a layer."""

from typing import Protocol

from torch import Tensor


class Attend(Protocol):
    """Attends for one batch."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend in one layer.

        Args:
            layer: Number of the layer in the whole model.
            query: [num_tokens, heads, head_dim], of this rank.
            key: [num_tokens, kv_heads, head_dim]; each serves heads / kv_heads neighbouring query heads.
            value: Like key.

        Returns:
            [num_tokens, heads * head_dim].
        """
        ...
