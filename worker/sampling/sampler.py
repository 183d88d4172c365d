"""Draws tokens in two steps: candidates of each vocabulary shard, then the choice among all ranks' candidates.

Rows that take the likeliest token send (value, id) of their shard's best; rows that draw by chance, or want
log-probabilities, send their shard's logits. Which rows send what is known from the schedule, so all ranks agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from liger.domain import Sampling
from liger.schedule import Logprob
from worker.sampling.filters import filtered_logits
from worker.sampling.likelihood import top_logprobs
from worker.sampling.noise import gumbel_noise, noise_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One token to draw."""

    sampling: Sampling
    sample: int  # which sample of its request
    position: int  # of the token to draw, in its sequence
    banned: tuple[int, ...] = ()  # ids that may not be drawn here

    @property
    def needs_all(self) -> bool:
        """Whether the whole distribution is needed."""
        return self.sampling.temperature > 0 or self.sampling.logprobs is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The tokens of a batch."""

    token_ids: tuple[int, ...]  # one a draw
    logprobs: tuple[Logprob, ...]  # of the draws that asked, in order


class Sampler:
    """Draws from logits that are split over ranks by vocabulary.

    Args:
        shards: Vocabulary rows of each rank, in rank order, contiguous.
        rank: This rank.
    """

    def __init__(self, shards: Sequence[range], rank: int) -> None:
        self._shards = shards
        self._rank = rank
        self._width = max(len(shard) for shard in shards)

    def candidates(self, logits: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Return what this rank sends: [2 * likeliest rows + width * other rows] float32.

        Args:
            logits: [draws, own vocabulary rows] float32; changed in place.
            draws: One a row.
        """
        shard = self._shards[self._rank]
        whole = [row for row, draw in enumerate(draws) if draw.needs_all]
        raw = logits[whole] if whole else logits[:0]
        for row, draw in enumerate(draws):
            own = [token - shard.start for token in draw.banned if token in shard]
            if own and not draw.needs_all:
                logits[row, own] = -torch.inf
        best = [row for row, draw in enumerate(draws) if not draw.needs_all]
        values, ids = (logits if len(best) == len(draws) else logits[best]).max(dim=-1)
        pairs = torch.stack([values, (ids + shard.start).to(torch.float32)], dim=-1)  # ids below 2^24 are exact
        padded = torch.nn.functional.pad(raw, (0, self._width - len(shard)), value=-torch.inf)
        return torch.cat([pairs.flatten(), padded.flatten()])

    def choose(self, parts: Sequence[Tensor], draws: Sequence[Draw]) -> Drawn:
        """Draw from all ranks' candidates, in rank order; the same on every rank."""
        whole = [row for row, draw in enumerate(draws) if draw.needs_all]
        best = [row for row, draw in enumerate(draws) if not draw.needs_all]
        cut = 2 * len(best)
        token_ids = [0] * len(draws)
        if best:
            pairs = torch.stack([part[:cut].view(-1, 2) for part in parts])  # [ranks, rows, 2]
            winner = pairs[..., 0].argmax(dim=0)
            ids = pairs[..., 1].gather(0, winner.unsqueeze(0)).squeeze(0)
            for row, token in zip(best, ids.long().tolist(), strict=True):
                token_ids[row] = token
        if not whole:
            return Drawn(token_ids=tuple(token_ids), logprobs=())
        rest = [
            part[cut:].view(-1, self._width)[:, : len(shard)] for part, shard in zip(parts, self._shards, strict=True)
        ]
        logits = torch.cat(rest, dim=-1)  # [rows, vocabulary]
        chosen = self._draw([draws[row] for row in whole], logits)
        for row, token in zip(whole, chosen, strict=True):
            token_ids[row] = token
        return Drawn(token_ids=tuple(token_ids), logprobs=_logprobs([draws[row] for row in whole], logits, chosen))

    def _draw(self, draws: Sequence[Draw], logits: Tensor) -> list[int]:
        allowed = logits.clone()
        for row, draw in enumerate(draws):
            if draw.banned:
                allowed[row, list(draw.banned)] = -torch.inf
        chance = [row for row, draw in enumerate(draws) if draw.sampling.temperature > 0]
        if chance:
            kept = filtered_logits(allowed[chance], [draws[row].sampling for row in chance])
            keys = [noise_key(draws[row].sampling.seed, draws[row].sample, draws[row].position) for row in chance]
            ids = torch.arange(logits.shape[-1], device=logits.device)
            allowed[chance] = kept + gumbel_noise(keys, ids)
        tokens: list[int] = allowed.argmax(dim=-1).tolist()
        return tokens


def _logprobs(draws: Sequence[Draw], logits: Tensor, chosen: Sequence[int]) -> tuple[Logprob, ...]:
    asking = [row for row, draw in enumerate(draws) if draw.sampling.logprobs is not None]
    if not asking:
        return ()
    wanted = [draws[row].sampling.logprobs or 0 for row in asking]
    return top_logprobs(logits[asking].log_softmax(-1), [chosen[row] for row in asking], wanted)
