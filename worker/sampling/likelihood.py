"""Log-probabilities: of drawn tokens with their rivals, and of given tokens from vocabulary shards."""

from collections.abc import Sequence

import torch
from torch import Tensor

from liger.schedule import Logprob


def top_logprobs(logprobs: Tensor, token_ids: Sequence[int], wanted: Sequence[int]) -> tuple[Logprob, ...]:
    """Return the likelihood of one token a row, and of the row's `wanted` likeliest ones.

    Args:
        logprobs: [rows, vocabulary] float32.
        token_ids: One a row.
        wanted: Rivals of each row.
    """
    count = min(max(wanted), logprobs.shape[-1])
    values, ids = logprobs.topk(count, dim=-1) if count else (logprobs[:, :0], logprobs[:, :0].long())
    own = logprobs.gather(-1, torch.tensor(token_ids, device=logprobs.device).unsqueeze(-1)).squeeze(-1)
    return tuple(
        Logprob(
            token_id=token,
            logprob=logprob,
            top_token_ids=tuple(row_ids[:number]),
            top_logprobs=tuple(row_values[:number]),
        )
        for token, logprob, row_ids, row_values, number in zip(
            token_ids, own.tolist(), ids.tolist(), values.tolist(), wanted, strict=True
        )
    )


def shard_likelihood(logits: Tensor, targets: Tensor, shard: range) -> Tensor:
    """Return what one vocabulary shard knows of given tokens: [rows, 4] float32.

    The columns are the shard's largest logit, the sum of exp(logit - largest), the target's logit (-inf if it lies in
    another shard), and the largest logit's id.

    Args:
        logits: [rows, own vocabulary rows] float32.
        targets: [rows] int64, global ids.
        shard: This rank's vocabulary rows.
    """
    largest, place = logits.max(dim=-1)
    total = (logits - largest.unsqueeze(-1)).exp().sum(-1)
    inside = (targets >= shard.start) & (targets < shard.stop)
    local = (targets - shard.start).clamp(0, len(shard) - 1)
    own = logits.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(~inside, -torch.inf)
    return torch.stack([largest, total, own, (place + shard.start).to(torch.float32)], dim=-1)


def joined_likelihood(parts: Sequence[Tensor], targets: Sequence[int]) -> tuple[Logprob, ...]:
    """Return the likelihood of given tokens, each with the likeliest one of its place.

    Args:
        parts: Of `shard_likelihood`, in rank order.
        targets: The given tokens.
    """
    table = torch.stack(list(parts))  # [ranks, rows, 4]
    largest, rank = table[..., 0].max(dim=0)
    total = (table[..., 1] * (table[..., 0] - largest).exp()).sum(0)
    normaliser = largest + total.log()
    own = table[..., 2].max(dim=0).values - normaliser
    best_ids = table[..., 3].gather(0, rank.unsqueeze(0)).squeeze(0).long()
    best = (largest - normaliser).tolist()
    return tuple(
        Logprob(token_id=token, logprob=logprob, top_token_ids=(best_id,), top_logprobs=(best_logprob,))
        for token, logprob, best_id, best_logprob in zip(targets, own.tolist(), best_ids.tolist(), best, strict=True)
    )
