"""One rank's part of a model: partial sums in, partial sums out, no communication."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.attention.interface import Attend
from worker.shards.norm import Norm, add_norm
from worker.shards.partition import Partition
from worker.shards.rotary import Rotary, Rotation
from worker.shards.spec import ActivationKind, ModelSpec
from worker.shards.weights import ShardWeights

_ACTIVATIONS: Final[dict[ActivationKind, Callable[[Tensor], Tensor]]] = {
    ActivationKind.SILU: F.silu,
    ActivationKind.GELU: F.gelu,
    ActivationKind.GELU_TANH: lambda hidden: F.gelu(hidden, approximate="tanh"),
    ActivationKind.RELU: F.relu,
}


@dataclass(slots=True)
class Activation:
    """What a batch carries between segments on a rank.

    A segment takes the addends in, gives its own partial sums out, and leaves in `bias` what is to be added to their
    sum. Whoever exchanges the partial sums puts the result in `addends`, in rank order.
    """

    residual: Tensor  # [num_tokens, hidden], changed in place
    positions: Tensor  # [num_tokens] int64
    addends: tuple[Tensor, ...] = ()  # each [num_tokens, hidden]
    bias: Tensor | None = None  # [hidden], of the projection whose partial sums the addends are
    rotation: Rotation | None = field(default=None, repr=False)  # of rotary positions, the same for all layers


class Shard:
    """A rank's slice of a model, or of a range of its layers.

    Call under `torch.inference_mode()`: `embed`, then `attention` and `mlp` for each layer with an exchange after each,
    then `finish` and `logits` or `classify`.

    Args:
        spec: The whole model.
        partition: What of each layer is held.
        layers: Which layers are held.
        weights: Of those layers; embeddings with layer 0, the head with the last.
        rotary: None without rotary positions.
        weight_bytes: Memory of all weights.
    """

    def __init__(
        self,
        *,
        spec: ModelSpec,
        partition: Partition,
        layers: range,
        weights: ShardWeights,
        rotary: Rotary | None,
        weight_bytes: int,
    ) -> None:
        self.spec = spec
        self.partition = partition
        self.layers = layers
        self.weight_bytes = weight_bytes
        self.num_heads = len(partition.heads)
        self.num_kv_heads = len(partition.kv_heads)
        self.vocab_start = partition.vocabulary.start
        self.vocab_end = partition.vocabulary.stop
        self._weights = dict(zip(layers, weights.layers, strict=True))
        self._embedding = weights.embedding
        self._head = weights.head
        self._rotary = rotary
        self._activate = _ACTIVATIONS[spec.activation]

    def embed(self, token_ids: Tensor, positions: Tensor, token_type_ids: Tensor | None = None) -> Activation:
        """Look tokens up; all arguments are [num_tokens] int64, token types default to 0."""
        tables = self._embedding
        assert tables is not None, "this rank's stage holds no embeddings"
        hidden = F.embedding(token_ids, tables.tokens)
        if tables.project_in is not None:
            hidden = tables.project_in(hidden)
        if tables.token_types is not None:
            types = tables.token_types[0] if token_type_ids is None else F.embedding(token_type_ids, tables.token_types)
            hidden.add_(types)
        if tables.positions is not None:
            hidden.add_(F.embedding(positions + self.spec.position_offset, tables.positions))
        return self.resume(hidden, positions)

    def suspend(self, act: Activation) -> Tensor:
        """End a stage that is not the last: the residual [num_tokens, hidden] with all addends, for `resume`."""
        residual, _ = add_norm(act.residual, act.addends, act.bias, None)
        return residual

    def resume(self, residual: Tensor, positions: Tensor) -> Activation:
        """Begin a stage with what the stage before gave by `suspend`, and the positions [num_tokens] int64."""
        rotation = self._rotary.rotation(positions) if self._rotary else None
        return Activation(residual, positions, rotation=rotation)

    def attention(self, layer: int, act: Activation, attend: Attend) -> Tensor:
        """Take the addends in and attend: this rank's partial sums [num_tokens, hidden]."""
        weights = self._weights[layer]
        hidden = self._take_addends(act, weights.attention_norm, weights.out_bias)
        num_tokens, (heads, kv_heads) = len(hidden), (self.num_heads, self.num_kv_heads)
        qkv = weights.qkv(hidden).view(num_tokens, heads + 2 * kv_heads, self.spec.head_dim)
        turned = qkv[:, : heads + kv_heads]
        if weights.qk_scale is not None:
            turned = F.rms_norm(turned, turned.shape[-1:], None, self.spec.norm_eps) * weights.qk_scale
        if act.rotation is not None:
            turned = act.rotation(turned)
        return weights.out(attend(layer, turned[:, :heads], turned[:, heads:], qkv[:, heads + kv_heads :]))

    def mlp(self, layer: int, act: Activation) -> Tensor:
        """Take the addends in and run the MLP: this rank's partial sums [num_tokens, hidden]."""
        return self.mlp_rows(layer, self.mlp_input(layer, act))

    def mlp_input(self, layer: int, act: Activation) -> Tensor:
        """Take the addends in: what `mlp_rows` reads, [num_tokens, hidden]; good until the next segment's addends."""
        weights = self._weights[layer]
        return self._take_addends(act, weights.mlp_norm, weights.down_bias)

    def mlp_rows(self, layer: int, hidden: Tensor) -> Tensor:
        """Run the MLP on some rows of its input: this rank's partial sums [rows, hidden]."""
        weights = self._weights[layer]
        hidden = weights.up(hidden)
        if self.spec.gated_mlp:
            gate, hidden = hidden.chunk(2, -1)
            return weights.down(self._activate(gate).mul_(hidden))
        return weights.down(self._activate(hidden))

    def finish(self, act: Activation) -> Tensor:
        """Take the last addends in: the model's hidden states [num_tokens, output_size], equal on all ranks."""
        assert self._head is not None, "this rank's stage holds no head"
        hidden = self._take_addends(act, self._head.norm, None)
        return hidden if self._head.project_out is None else self._head.project_out(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits of this rank's vocabulary rows, [n, vocab_end - vocab_start] float32, for [n, output_size]."""
        assert self._head is not None and self._head.language is not None, "no language head here"  # noqa: PT018 - one bug
        return self._head.language(hidden).to(torch.float32)

    def classify(self, hidden: Tensor) -> Tensor:
        """Return raw scores [n, labels] float32 of the rows [n, output_size] that `spec.classifier_pooling` names."""
        assert self._head is not None and self._head.classifier is not None, "no classifier here"  # noqa: PT018 - one bug
        if self._head.dense is not None:
            hidden = self._head.dense(hidden).tanh_()
        return self._head.classifier(hidden).to(torch.float32)

    def _take_addends(self, act: Activation, norm: Norm | None, next_bias: Tensor | None) -> Tensor:
        """Return what the next block reads; where norms come last, that is also the new residual."""
        act.residual, hidden = add_norm(act.residual, act.addends, act.bias, norm)
        if not self.spec.norm_first:
            act.residual = hidden
        act.addends, act.bias = (), next_bias
        return hidden
