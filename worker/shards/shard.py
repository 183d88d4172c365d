"""One rank's part of a model: partial sums in, partial sums out, no communication."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own usage
from torch import Tensor

from worker.attention.interface import Attend
from worker.shards.norm import Norm
from worker.shards.ops import Ops, TorchOps
from worker.shards.partition import Partition
from worker.shards.rotary import Rotary, Rotation
from worker.shards.spec import ModelSpec
from worker.shards.weights import ShardWeights


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
        ops: How this rank's device computes what is no projection; None for torch's own functions.
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
        ops: Ops | None = None,
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
        self._ops: Ops = ops or TorchOps()

    def allocate_rotation(self, num_tokens: int) -> Rotation | None:
        """Return memory for the rotation of so many tokens; None without rotary positions."""
        return self._rotary.allocate(num_tokens) if self._rotary else None

    def embed(
        self,
        token_ids: Tensor,
        positions: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        residual: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Activation:
        """Look tokens up.

        Args:
            token_ids: [num_tokens] int64, as are the next two.
            positions: In the sequences.
            token_type_ids: All 0 by default.
            residual: Memory for the residual, [num_tokens, hidden]; allocated by default.
            rotation: Memory for the rotation of so many tokens; allocated by default.
        """
        tables = self._embedding
        assert tables is not None, "this rank's stage holds no embeddings"
        if tables.project_in is not None:
            hidden = tables.project_in(F.embedding(token_ids, tables.tokens), residual)
        elif residual is not None:
            hidden = torch.index_select(tables.tokens, 0, token_ids, out=residual)
        else:
            hidden = F.embedding(token_ids, tables.tokens)
        if tables.token_types is not None:
            types = tables.token_types[0] if token_type_ids is None else F.embedding(token_type_ids, tables.token_types)
            hidden.add_(types)
        if tables.positions is not None:
            hidden.add_(F.embedding(positions + self.spec.position_offset, tables.positions))
        return self.resume(hidden, positions, rotation=rotation)

    def suspend(self, act: Activation) -> Tensor:
        """End a stage that is not the last: the residual [num_tokens, hidden] with all addends, for `resume`."""
        residual, _ = self._ops.add_norm(act.residual, act.addends, act.bias, None)
        return residual

    def resume(
        self, arrived: Tensor, positions: Tensor, *, residual: Tensor | None = None, rotation: Rotation | None = None
    ) -> Activation:
        """Begin a stage.

        Args:
            arrived: What the stage before gave by `suspend`, [num_tokens, hidden]; becomes the residual.
            positions: [num_tokens] int64.
            residual: Memory to copy it to; it stays in its own by default.
            rotation: Memory for the rotation of so many tokens; allocated by default.
        """
        turned = self._rotary.rotation(positions) if self._rotary else None
        if turned is not None and rotation is not None:
            turned = rotation.copy_(turned)
        held = arrived if residual is None else residual.copy_(arrived)
        return Activation(held, positions, rotation=turned)

    def attention(self, layer: int, act: Activation, attend: Attend, out: Tensor | None = None) -> Tensor:
        """Take the addends in and attend: this rank's partial sums [num_tokens, hidden], in `out` if it is given."""
        weights = self._weights[layer]
        hidden = self._take_addends(act, weights.attention_norm, weights.out_bias)
        num_tokens, (heads, kv_heads) = len(hidden), (self.num_heads, self.num_kv_heads)
        qkv = weights.qkv(hidden).view(num_tokens, heads + 2 * kv_heads, self.spec.head_dim)
        turned, value = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        query, key = self._ops.rotate(turned, heads, act.rotation, weights.qk_scale, self.spec.norm_eps)
        return weights.out(attend(layer, query, key, value), out)

    def mlp(self, layer: int, act: Activation, out: Tensor | None = None) -> Tensor:
        """Take the addends in and run the MLP: this rank's partial sums [num_tokens, hidden], in `out` if given."""
        return self.mlp_rows(layer, self.mlp_input(layer, act), out)

    def mlp_input(self, layer: int, act: Activation, out: Tensor | None = None) -> Tensor:
        """Take the addends in: what `mlp_rows` reads, [num_tokens, hidden], in `out` if it is given.

        Otherwise it is good until the next segment's addends.
        """
        weights = self._weights[layer]
        return self._take_addends(act, weights.mlp_norm, weights.down_bias, out)

    def mlp_rows(self, layer: int, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Run the MLP on some rows of its input: this rank's partial sums [rows, hidden], in `out` if it is given."""
        weights = self._weights[layer]
        pass_on = self._ops.gate if self.spec.gated_mlp else self._ops.activate
        return weights.down(pass_on(weights.up(hidden), self.spec.activation), out)

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

    def _take_addends(
        self, act: Activation, norm: Norm | None, next_bias: Tensor | None, out: Tensor | None = None
    ) -> Tensor:
        """Return what the next block reads; where norms come last, that is also the new residual."""
        act.residual, hidden = self._ops.add_norm(
            act.residual, act.addends, act.bias, norm, norm_last=not self.spec.norm_first, out=out
        )
        act.addends, act.bias = (), next_bias
        return hidden
