"""The seam for projections: whatever maps [num_tokens, inputs] to [num_tokens, outputs], quantised or not."""

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor


class Linear(Protocol):
    """A projection of a rank's slice."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map [num_tokens, inputs] to [num_tokens, outputs]."""
        ...


@dataclass(frozen=True, slots=True)
class DenseLinear:
    """A projection with float weights."""

    weight: Tensor  # [outputs, inputs]
    bias: Tensor | None = None  # [outputs]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Map [num_tokens, inputs] to [num_tokens, outputs]."""
        return F.linear(hidden, self.weight, self.bias)
