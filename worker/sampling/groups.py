"""Draws of one form, handled together: what a rank sends of them, and what is chosen from all ranks' parts."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from liger.schedule import Logprob
from worker.sampling.controls import Vocabulary
from worker.sampling.draw import Draw
from worker.sampling.filters import keep_tokens
from worker.sampling.forms import Form, Kind
from worker.sampling.likelihood import joined_likelihood, shard_likelihood, target_logits
from worker.sampling.masses import Masses, join_masses, shard_masses
from worker.sampling.noise import gumbel_noise, noise_key
from worker.sampling.packing import pack, pad_columns, unpack_ids
from worker.sampling.ranking import NO_ID, Found, rank_whole

_COLDEST: Final = 1e-6  # temperatures below are taken as this, so that logits stay finite
_GROWTH: Final = (1024, 8192)  # likeliest tokens of a whole row that are looked at, before all are


class Group:
    """Some draws of one form on one rank. First `pack`, then `choose`, then `choose_again` if some are undecided.

    Args:
        form: What they send.
        draws: One a row.
        shards: Vocabulary rows of each rank.
        vocabulary: This rank's.
        logits: [rows, own vocabulary rows] float32, after penalties, biases and masks.
        raw: The same as the model gave them, if the form asks for likelihoods.
    """

    def __init__(
        self,
        form: Form,
        draws: Sequence[Draw],
        shards: Sequence[range],
        vocabulary: Vocabulary,
        *,
        logits: Tensor,
        raw: Tensor | None,
    ) -> None:
        self.shape = (len(draws), sum(form.widths))  # of what is sent
        self.size = self.shape[0] * self.shape[1]
        self.undecided: list[int] = []  # rows, after `choose`
        self._form = form
        self._draws = draws
        self._shards = shards
        self._vocabulary = vocabulary
        self._keys = [noise_key(draw.sampling.seed, draw.sample, draw.position) for draw in draws]
        self._fallbacks = torch.tensor([_fallback(draw, vocabulary.size) for draw in draws], device=logits.device)
        self._scores = self._score(logits)
        self._raw = raw
        self._tokens = self._fallbacks.clone()  # chosen, [rows] int64
        self._own: Tensor | None = None  # logits of `_tokens` as the model gave them, [rows]
        self._likelihoods: Tensor | None = None  # [ranks, rows, likelihood_width]
        self._masses: Masses | None = None

    def pack(self) -> Tensor:
        """Return what this rank sends, of `shape`, float32."""
        shard, form = self._vocabulary.own, self._form
        if form.num_candidates == 1:
            places = self._scores.argmax(-1, keepdim=True)  # the first of equals
        else:
            places = self._scores.topk(min(form.num_candidates, len(shard)), dim=-1).indices
        columns = [
            pad_columns(self._scores.gather(-1, places), form.num_candidates, -torch.inf),
            pack(pad_columns(places + shard.start, form.num_candidates, NO_ID)),
        ]
        if self._raw is not None:
            columns.append(pad_columns(self._raw.gather(-1, places), form.num_candidates, -torch.inf))
        if form.has_masses:
            columns.append(shard_masses(self._scores))
        if self._raw is not None and form.num_rivals is not None:
            columns.append(shard_likelihood(self._raw, self._fallbacks, shard, form.num_rivals))
        if form.kind is not Kind.FILTERED:  # what may be asked for again is kept
            self._scores, self._raw = self._scores[:0], None
        return torch.cat(columns, dim=-1)

    def choose(self, parts: Tensor) -> None:
        """Draw from all ranks' parts, [ranks, *shape] float32."""
        form, rows = self._form, range(len(self._draws))
        scores, packed, raw, masses, likelihoods = torch.split(parts, form.widths, dim=-1)
        if form.num_rivals is not None:
            self._likelihoods, self._own = likelihoods, target_logits(likelihoods)
        found = Found(*(part.transpose(0, 1).flatten(1) for part in (scores, unpack_ids(packed), raw)))
        if form.kind is not Kind.FILTERED:
            self._take(rows, found, found.scores)
            return
        self._masses = join_masses(masses) if form.has_masses else None
        is_whole = torch.tensor([len(shard) <= form.num_candidates for shard in self._shards], device=parts.device)
        bound = scores[..., -1].masked_fill(is_whole.unsqueeze(-1), -torch.inf).amax(0)
        is_sure = self._filter(rows, found.ranked(), bound)
        self.undecided = (~is_sure).nonzero().flatten().tolist()

    def rest(self) -> Tensor:
        """Return what this rank sends of the undecided rows: [rows, n] float32, of the same size on all ranks."""
        width = max(map(len, self._shards))
        whole = [part[self.undecided] for part in (self._scores, self._raw) if part is not None]
        return torch.cat([pad_columns(part, width, -torch.inf) for part in whole], dim=-1)

    def choose_again(self, parts: Tensor) -> None:
        """Draw the undecided rows from all ranks' rests, [ranks, rows, n] float32."""
        scores, *raw = (self._whole(part) for part in torch.split(parts, max(map(len, self._shards)), dim=-1))
        rows, size = self.undecided, scores.shape[-1]
        for count in (*(count for count in _GROWTH if count < size), size):
            found = rank_whole(scores, raw[0] if raw else None, count)
            bound = found.scores[:, -1] if count < size else torch.full_like(found.scores[:, -1], -torch.inf)
            is_open = ~self._filter(rows, found, bound)
            if not is_open.any():
                break
            rows = [row for row, still in zip(rows, is_open.tolist(), strict=True) if still]
            scores, *raw = (part[is_open] for part in (scores, *raw))

    def tokens(self) -> list[int]:
        """Return what was drawn, one a row."""
        tokens: list[int] = self._tokens.tolist()
        return tokens

    def logprobs(self) -> tuple[Logprob, ...]:
        """Return their likelihoods, one a row; empty if none were asked for."""
        if self._form.num_rivals is None or self._likelihoods is None:
            return ()
        wanted = [min(draw.sampling.logprobs or 0, self._vocabulary.size) for draw in self._draws]
        return joined_likelihood(self._likelihoods, self.tokens(), wanted, self._own)

    def _score(self, logits: Tensor) -> Tensor:
        """Return what tokens are compared by; filters come before the noise, so it is not in theirs yet."""
        if self._form.kind is Kind.LIKELIEST:
            return logits
        temperatures = [max(draw.sampling.temperature, _COLDEST) for draw in self._draws]
        scores = logits / torch.tensor(temperatures, dtype=torch.float32, device=logits.device).unsqueeze(-1)
        if self._form.kind is Kind.NOISY:
            own = self._vocabulary.own
            scores += gumbel_noise(self._keys, torch.arange(own.start, own.stop, device=logits.device))
        return scores

    def _filter(self, rows: Sequence[int], ranked: Found, bound: Tensor) -> Tensor:
        """Draw from what filters keep of some rows; return for which of them nothing else could be kept, [rows] bool.

        Args:
            rows: Which of the draws.
            ranked: Their likeliest tokens, in order.
            bound: See `keep_tokens`.
        """
        masses = self._masses
        if masses is not None:
            places = torch.tensor(rows, device=bound.device)
            masses = Masses(masses.largest[places], masses.total[places], masses.moment[places])
        kept, is_sure = keep_tokens(ranked.scores, bound, [self._draws[row].sampling for row in rows], masses)
        last = int(kept.any(0).nonzero().amax()) + 1 if kept.any() else 1  # noise on what comes behind is of no use
        cut = ranked.first_columns(last)
        noise = gumbel_noise([self._keys[row] for row in rows], cut.ids)
        self._take(rows, cut, (cut.scores + noise).masked_fill_(~kept[:, :last], -torch.inf))
        return is_sure

    def _take(self, rows: Sequence[int], found: Found, scores: Tensor) -> None:
        """Take the best candidate of some rows, the lowest id of equals; the fallback if there is none."""
        best = scores.amax(-1, keepdim=True)
        tokens = torch.where((scores == best) & (scores > -torch.inf), found.ids, NO_ID).amin(-1)
        is_none = tokens == NO_ID
        places = torch.tensor(rows, device=tokens.device)
        self._tokens[places] = torch.where(is_none, self._fallbacks[places], tokens)
        if self._own is not None and found.raw is not None:
            place = (found.ids == tokens.unsqueeze(-1)).to(torch.uint8).argmax(-1, keepdim=True)
            raw = found.raw.gather(-1, place).squeeze(-1)
            self._own[places] = torch.where(is_none, self._own[places], raw)

    def _whole(self, parts: Tensor) -> Tensor:
        """Return whole rows [rows, vocabulary] from all ranks' padded ones."""
        return torch.cat([part[:, : len(shard)] for part, shard in zip(parts, self._shards, strict=True)], dim=-1)


def _fallback(draw: Draw, size: int) -> int:
    return draw.fallback if draw.fallback < size else 0
