"""Norms, and the one place where partial sums join the residual."""

from collections.abc import Sequence
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


def add_norm(
    residual: Tensor, addends: Sequence[Tensor], bias: Tensor | None, norm: Norm | None
) -> tuple[Tensor, Tensor]:
    """Add an exchange's partial sums and their bias to the residual, then norm it.

    Args:
        residual: [num_tokens, hidden], changed in place.
        addends: Partial sums of all ranks, each [num_tokens, hidden], added in this order: all ranks round alike.
        bias: [hidden], of the projection that gave the partial sums.
        norm: None leaves the sum as it is.

    Returns:
        The new residual and its norm.
    """
    for addend in addends:
        residual.add_(addend)
    if bias is not None:
        residual.add_(bias)
    return residual, residual if norm is None else norm(residual)
