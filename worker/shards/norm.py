"""Norms over the hidden dimension."""

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.shards.spec import NormKind


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer or RMS norm over the last dimension."""

    kind: NormKind
    eps: float
    weight: Tensor | None = None  # [hidden]
    bias: Tensor | None = None  # [hidden]

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the normed [num_tokens, hidden]."""
        if self.kind is NormKind.RMS:
            return F.rms_norm(hidden, hidden.shape[-1:], self.weight, self.eps)
        return F.layer_norm(hidden, hidden.shape[-1:], self.weight, self.bias, self.eps)
