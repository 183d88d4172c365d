"""The seam for projections: whatever maps [num_tokens, inputs] to [num_tokens, outputs], quantised or not."""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor


class Linear(Protocol):
    """A projection of a rank's slice."""

    def __call__(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Map [num_tokens, inputs] to [num_tokens, outputs], in `out` if it is given; the values are the same."""
        ...


@dataclass(frozen=True, slots=True)
class DenseLinear:
    """A projection with float weights."""

    weight: Tensor  # [outputs, inputs]
    bias: Tensor | None = None  # [outputs]

    def __call__(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Map [num_tokens, inputs] to [num_tokens, outputs], see `Linear`."""
        if out is None:
            return F.linear(hidden, self.weight, self.bias)
        if self.bias is None:
            return torch.mm(hidden, self.weight.t(), out=out)
        return torch.addmm(self.bias, hidden, self.weight.t(), out=out)
