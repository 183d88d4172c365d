"""Log-probabilities under the model itself, of given tokens with their likeliest rivals, from vocabulary shards."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from liger.schedule import Logprob
from worker.sampling import masses
from worker.sampling.masses import join_masses, shard_masses
from worker.sampling.packing import pack, pad_columns, unpack_ids
from worker.sampling.ranking import NO_ID, first_tokens, rank_tokens
from worker.sampling.transfers import Fetch


def likelihood_width(num_rivals: int) -> int:
    """Return the columns of `shard_likelihood`."""
    return masses.WIDTH + 1 + 2 * num_rivals


def shard_likelihood(logits: Tensor, targets: Tensor, shard: range, num_rivals: int) -> Tensor:
    """Return what one vocabulary shard knows of given tokens: [rows, likelihood_width] float32.

    The columns are the shard's masses, the target's logit (-inf if it lies in another shard), the logits of the shard's
    likeliest tokens, and their ids.

    Args:
        logits: [rows, own vocabulary rows] float32, as the model gives them.
        targets: [rows] int64, global ids.
        shard: This rank's vocabulary rows.
        num_rivals: Likeliest tokens to tell of; a shard with fewer tells of all.
    """
    inside = (targets >= shard.start) & (targets < shard.stop)
    local = (targets - shard.start).clamp(0, len(shard) - 1)
    own = logits.gather(-1, local.unsqueeze(-1)).masked_fill(~inside.unsqueeze(-1), -torch.inf)
    values, places = first_tokens(logits, min(num_rivals, len(shard)))
    ids = pad_columns(places + shard.start, num_rivals, NO_ID)
    return torch.cat([shard_masses(logits), own, pad_columns(values, num_rivals, -torch.inf), pack(ids)], dim=-1)


def target_logits(parts: Tensor) -> Tensor:
    """Return the given tokens' logits [rows] from all ranks' parts [ranks, rows, likelihood_width]."""
    return parts[..., masses.WIDTH].amax(0)


class Likelihoods:
    """Of given tokens, one a row, each with the likeliest ones of its place. On the device until they are read.

    Args:
        parts: Of `shard_likelihood`, [ranks, rows, likelihood_width].
        num_rivals: Of each row, at most as many as the shards tell of.
        logits: Those of the given tokens [rows], where they are not the tokens that the shards were asked for.
    """

    def __init__(self, parts: Tensor, num_rivals: Sequence[int], logits: Tensor | None = None) -> None:
        sums = join_masses(parts)
        # rounded to float32, as they travel: nothing is left of the order in which shards were summed
        normaliser = (sums.largest + sums.total.log()).unsqueeze(-1)
        own = target_logits(parts) if logits is None else logits
        told = parts[..., masses.WIDTH + 1 :].transpose(0, 1)  # [rows, ranks, 2 * rivals]
        values, ids = told.chunk(2, dim=-1)
        values, ids = values.flatten(1), unpack_ids(ids).flatten(1)
        order = rank_tokens(values, ids)[:, : max(num_rivals, default=0)]
        logprobs = torch.cat([own.unsqueeze(-1), values.gather(-1, order)], dim=-1) - normaliser
        self._table = torch.cat([logprobs.to(torch.float32), pack(ids.gather(-1, order))], dim=-1)
        self._num_rivals = num_rivals

    def read(self, fetch: Fetch) -> Callable[[Sequence[int]], tuple[Logprob, ...]]:
        """Begin to copy to the host; what is returned makes likelihoods of the given tokens, once that has ended."""
        table, num_rivals = fetch(self._table), self._num_rivals
        return lambda targets: _build(table, targets, num_rivals)


def _build(table: Tensor, targets: Sequence[int], num_rivals: Sequence[int]) -> tuple[Logprob, ...]:
    width = table.shape[-1] // 2
    return tuple(
        Logprob(token_id=token, logprob=own, top_token_ids=tuple(ids[:count]), top_logprobs=tuple(rivals[:count]))
        for token, (own, *rivals), ids, count in zip(
            targets, table[:, : width + 1].tolist(), unpack_ids(table[:, width + 1 :]).tolist(), num_rivals, strict=True
        )
    )
