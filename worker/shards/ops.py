"""What a shard computes besides its projections; each kind of device has its own way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.shards.norm import Norm
from worker.shards.rotary import Rotation
from worker.shards.spec import ActivationKind

_ACTIVATIONS: Final[dict[ActivationKind, Callable[[Tensor], Tensor]]] = {
    ActivationKind.SILU: F.silu,
    ActivationKind.GELU: F.gelu,
    ActivationKind.GELU_TANH: lambda hidden: F.gelu(hidden, approximate="tanh"),
    ActivationKind.RELU: F.relu,
}


class Ops(Protocol):
    """The passes over a batch's rows between projections; all ranks of a model use the same, so that they round alike.

    None of them waits for the device or looks at values on the host, so CUDA graphs can hold them.
    """

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
        """Add an exchange's partial sums and their bias to the residual, then norm it.

        Args:
            residual: [num_tokens, hidden], changed in place.
            addends: Partial sums of all ranks, each [num_tokens, hidden], at most 8, added in this order.
            bias: [hidden], of the projection that gave the partial sums.
            norm: None leaves the sum as it is.
            norm_last: The normed sum, not the sum, is the new residual.
            out: Memory for the normed sum, not the residual's; without it, what is equal to the new residual may share
                its memory.

        Returns:
            The new residual and the normed sum.
        """
        ...

    def activate(self, hidden: Tensor, kind: ActivationKind) -> Tensor:
        """Return the activation of [num_tokens, columns]."""
        ...

    def gate(self, hidden: Tensor, kind: ActivationKind) -> Tensor:
        """Return activation(gate) * up, [num_tokens, columns], of [num_tokens, 2 * columns] with the gate first."""
        ...

    def rotate(
        self, turned: Tensor, num_heads: int, rotation: Rotation | None, scale: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Norm queries and keys, then turn them.

        Args:
            turned: [num_tokens, num_heads + kv_heads, head_dim], queries first; rows may lie apart.
            num_heads: How many are queries.
            rotation: None without rotary positions.
            scale: [num_heads + kv_heads, head_dim], weights of the RMS norms over head_dim; None without norms.
            eps: Of the norms.

        Returns:
            Queries [num_tokens, num_heads, head_dim] and keys [num_tokens, kv_heads, head_dim]; rows may lie apart.
        """
        ...


@dataclass(frozen=True, slots=True)
class TorchOps:
    """Torch's own functions, one pass each: for the CPU, and what other ops are checked against."""

    keeps_place: bool = False  # whether the residual stays in its memory where norms come last too: graphs read it

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
        """Add and norm, see `Ops.add_norm`."""
        for addend in addends:
            residual.add_(addend)
        if bias is not None:
            residual.add_(bias)
        normed = residual if norm is None else norm(residual)
        if norm_last:
            residual = normed = residual.copy_(normed) if self.keeps_place else normed
        return residual, normed if out is None else out.copy_(normed)

    def activate(self, hidden: Tensor, kind: ActivationKind) -> Tensor:
        """Activate, see `Ops.activate`."""
        return _ACTIVATIONS[kind](hidden)

    def gate(self, hidden: Tensor, kind: ActivationKind) -> Tensor:
        """Activate and multiply, see `Ops.gate`."""
        gate, up = hidden.chunk(2, -1)
        return _ACTIVATIONS[kind](gate).mul_(up)

    def rotate(
        self, turned: Tensor, num_heads: int, rotation: Rotation | None, scale: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        """Norm and turn, see `Ops.rotate`."""
        if scale is not None:
            turned = F.rms_norm(turned, turned.shape[-1:], None, eps) * scale
        if rotation is not None:
            turned = rotation(turned)
        return turned[:, :num_heads], turned[:, num_heads:]
