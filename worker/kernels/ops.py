"""The ops of a shard on CUDA, in Triton's kernels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.kernels import gates, norms, rotations
from worker.shards.norm import Norm
from worker.shards.ops import TorchOps
from worker.shards.rotary import Rotation
from worker.shards.spec import ActivationKind


@dataclass(frozen=True, slots=True)
class TritonOps:
    """Each op one pass over memory, in float32 within; the residual never leaves its memory."""

    def add_norm(
        self,
        residual: Tensor,
        addends: Sequence[Tensor],
        bias: Tensor | None,
        norm: Norm | None,
        *,
        norm_last: bool = False,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Add and norm, see `Ops.add_norm`; the sum is rounded once."""
        if out is None:
            out = residual if norm is None or norm_last else torch.empty_like(residual)
        norms.add_norm(residual, addends, bias, norm, norm_last=norm_last, out=out)
        return residual, out

    def activate(self, hidden: Tensor, kind: ActivationKind) -> Tensor:
        """Activate, see `Ops.activate`; torch's own function is one pass already."""
        return TorchOps().activate(hidden, kind)

    def gate(self, hidden: Tensor, kind: ActivationKind) -> Tensor:
        """Activate and multiply, see `Ops.gate`."""
        return gates.gate(hidden, kind)

    def rotate(
        self, turned: Tensor, num_heads: int, rotation: Rotation | None, scale: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Norm and turn, see `Ops.rotate`; without either, queries and keys stay where they are."""
        if rotation is None and scale is None:
            return turned[:, :num_heads], turned[:, num_heads:]
        return rotations.rotate(turned, num_heads, rotation, scale, eps)
