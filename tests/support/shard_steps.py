"""One forward of all ranks of a model on one device, exchanges done by hand, with or without memory of its own."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from worker.attention.encode import build_encode_attention
from worker.shards.folder import read_spec
from worker.shards.loading import load_shard
from worker.shards.ops import Ops
from worker.shards.shard import Activation, Shard


class ShardSteps:
    """All ranks of a model.

    Args:
        folder: The model's folder.
        tp_size: Number of ranks.
        ops: How they compute.
        device: Where.
        dtype: Of weights.
    """

    def __init__(
        self,
        folder: Path,
        tp_size: int,
        *,
        ops: Ops | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec = read_spec(folder)
        self._device, self._dtype = device, dtype
        self.shards = [
            load_shard(folder, self.spec, tp_rank=rank, tp_size=tp_size, dtype=dtype, device=device, ops=ops)
            for rank in range(tp_size)
        ]

    @torch.inference_mode()
    def forward(self, inputs: Sequence[Sequence[int]], *, is_fixed: bool) -> Tensor:
        """Return hidden states of all inputs, [tokens, output_size].

        Args:
            inputs: Token ids.
            is_fixed: Whether residual, rotation, MLP input and partial sums lie in given memory, which is NaN before,
                and the MLP runs in two pieces of rows.
        """
        lengths = [len(ids) for ids in inputs]
        attend = build_encode_attention(
            lengths,
            causal=self.spec.causal,
            windows=self.spec.sliding_windows,
            dtype=self._dtype,
            device=self._device,
        )
        token_ids = torch.tensor([token for ids in inputs for token in ids], device=self._device)
        positions = torch.tensor([place for length in lengths for place in range(length)], device=self._device)
        acts = [self._embed(shard, token_ids, positions, is_fixed=is_fixed) for shard in self.shards]
        for layer in range(self.spec.num_layers):
            ranks = list(zip(self.shards, acts, strict=True))
            outs = [self._poison(len(token_ids)) if is_fixed else None for _ in ranks]
            self._exchange(
                acts, [shard.attention(layer, act, attend, out) for (shard, act), out in zip(ranks, outs, strict=True)]
            )
            step = self._mlp_in_pieces if is_fixed else _mlp
            self._exchange(acts, [step(shard, layer, act) for shard, act in ranks])
        return self._same([shard.finish(act) for shard, act in zip(self.shards, acts, strict=True)])

    def _embed(self, shard: Shard, token_ids: Tensor, positions: Tensor, *, is_fixed: bool) -> Activation:
        if not is_fixed:
            return shard.embed(token_ids, positions)
        residual, rotation = self._poison(len(token_ids)), shard.allocate_rotation(len(token_ids) + 2)
        if rotation is not None:
            rotation.cosines.fill_(torch.nan)
            rotation.sines.fill_(torch.nan)
            rotation = rotation.first(len(token_ids))
        act = shard.embed(token_ids, positions, residual=residual, rotation=rotation)
        assert act.residual.data_ptr() == residual.data_ptr()
        assert act.rotation is rotation
        return act

    def _mlp_in_pieces(self, shard: Shard, layer: int, act: Activation) -> Tensor:
        num_tokens = len(act.residual)
        held, partial = self._poison(num_tokens), self._poison(num_tokens)
        hidden = shard.mlp_input(layer, act, held)
        assert hidden.data_ptr() == held.data_ptr()
        for rows in (slice(0, num_tokens // 2), slice(num_tokens // 2, num_tokens)):
            assert shard.mlp_rows(layer, hidden[rows], partial[rows]).data_ptr() == partial[rows].data_ptr()
        return partial

    def _poison(self, num_tokens: int) -> Tensor:
        size = (num_tokens, self.spec.hidden_size)
        return torch.full(size, torch.nan, dtype=self._dtype, device=self._device)

    def _exchange(self, acts: Sequence[Activation], partials: list[Tensor]) -> None:
        for act in acts:
            act.addends = tuple(partials)

    @staticmethod
    def _same(results: list[Tensor]) -> Tensor:
        """Return what all ranks hold alike, to the bit."""
        assert all(torch.equal(result, results[0]) for result in results)
        return results[0]


def _mlp(shard: Shard, layer: int, act: Activation) -> Tensor:
    return shard.mlp(layer, act)
