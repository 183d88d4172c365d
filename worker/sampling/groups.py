"""Draws of one form, handled together: what a rank sends of them, and what is chosen from all ranks' parts."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from worker.sampling.controls import Vocabulary
from worker.sampling.draw import Draw
from worker.sampling.filters import keep_tokens
from worker.sampling.forms import Form, Kind
from worker.sampling.likelihood import Likelihoods, shard_likelihood, target_logits
from worker.sampling.masses import Masses, join_masses, shard_masses
from worker.sampling.noise import gumbel_noise
from worker.sampling.packing import pack, pad_columns, unpack_ids
from worker.sampling.parameters import Parameters
from worker.sampling.picking import PickNoisy, pick_likeliest
from worker.sampling.ranking import NO_ID, Found, rank_whole
from worker.sampling.transfers import Stage

_GROWTH: Final = (1024, 8192)  # likeliest tokens of a whole row that are looked at, before all are


class Group:
    """Some draws of one form on one rank. First `pack`, then `choose`, then `choose_again` if some are undecided.

    Nothing but `choose_again` waits for the device.

    Args:
        form: What they send.
        draws: One a row.
        parameters: Theirs, on the device.
        shards: Vocabulary rows of each rank.
        vocabulary: This rank's.
        logits: [rows, own vocabulary rows] float32, after penalties, biases and masks.
        raw: The same as the model gave them, if the form asks for likelihoods.
    """

    def __init__(
        self,
        form: Form,
        draws: Sequence[Draw],
        parameters: Parameters,
        shards: Sequence[range],
        vocabulary: Vocabulary,
        *,
        logits: Tensor,
        raw: Tensor | None,
    ) -> None:
        self.shape = (len(draws), sum(form.widths))  # of what is sent
        self.size = self.shape[0] * self.shape[1]
        self.is_sure: Tensor | None = None  # after `choose`, [rows] bool: which are decided; None if all are
        self.tokens = parameters.fallbacks  # chosen, [rows] int64
        self._form = form
        self._draws = draws
        self._parameters = parameters
        self._shards = shards
        self._vocabulary = vocabulary
        self._logits = logits  # over temperature from `pack` on, where draws are filtered
        self._raw = raw
        self._own: Tensor | None = None  # logits of `tokens` as the model gave them, [rows]
        self._likelihoods: Tensor | None = None  # [ranks, rows, likelihood_width]
        self._masses: Masses | None = None
        self._undecided: Tensor | None = None  # rows [n] int64

    def pack(self, pick_noisy: PickNoisy) -> Tensor:
        """Return what this rank sends, of `shape`, float32."""
        shard, form = self._vocabulary.own, self._form
        values, places = self._candidates(pick_noisy)
        columns = [
            pad_columns(values, form.num_candidates, -torch.inf),
            pack(pad_columns(places + shard.start, form.num_candidates, NO_ID)),
        ]
        if self._raw is not None:
            columns.append(pad_columns(self._raw.gather(-1, places), form.num_candidates, -torch.inf))
        if form.has_masses:
            columns.append(shard_masses(self._logits))
        if self._raw is not None and form.num_rivals is not None:
            columns.append(shard_likelihood(self._raw, self._parameters.fallbacks, shard, form.num_rivals))
        if form.kind is not Kind.FILTERED:  # what may be asked for again is kept
            self._logits, self._raw = self._logits[:0], None
        return torch.cat(columns, dim=-1)

    def choose(self, parts: Tensor) -> None:
        """Draw from all ranks' parts, [ranks, *shape] float32."""
        form = self._form
        scores, packed, raw, masses, likelihoods = torch.split(parts, form.widths, dim=-1)
        if form.num_rivals is not None:
            self._likelihoods, self._own = likelihoods, target_logits(likelihoods)
        found = Found(*(part.transpose(0, 1).flatten(1) for part in (scores, unpack_ids(packed), raw)))
        if form.kind is not Kind.FILTERED:
            self._take(None, found, found.scores)
            return
        self._masses = join_masses(masses) if form.has_masses else None
        rests = [
            part[:, -1] for part, shard in zip(scores, self._shards, strict=True) if len(shard) > form.num_candidates
        ]
        bound = torch.stack(rests).amax(0) if rests else scores.new_full(self.shape[:1], -torch.inf)
        is_sure = self._filter(None, found.ranked(), bound)
        self.is_sure = is_sure if rests else None

    def rest(self, undecided: Sequence[int], stage: Stage) -> Tensor:
        """Return what this rank sends of undecided rows: [rows, n] float32, of the same size on all ranks."""
        self._undecided = places = stage(undecided, torch.int64)
        width = max(map(len, self._shards))
        whole = [part[places] for part in (self._logits, self._raw) if part is not None]
        return torch.cat([pad_columns(part, width, -torch.inf) for part in whole], dim=-1)

    def choose_again(self, parts: Tensor, stage: Stage) -> None:
        """Draw the undecided rows from all ranks' rests, [ranks, rows, n] float32."""
        assert self._undecided is not None, "their rests were sent"
        scores, *raw = (self._whole(part) for part in torch.split(parts, max(map(len, self._shards)), dim=-1))
        rows, size = self._undecided, scores.shape[-1]
        for count in (*(count for count in _GROWTH if count < size), size):
            found = rank_whole(scores, raw[0] if raw else None, count)
            bound = found.scores[:, -1] if count < size else torch.full_like(found.scores[:, -1], -torch.inf)
            is_sure = self._filter(rows, found, bound)
            if count == size:
                return
            still = [place for place, sure in enumerate(is_sure.tolist()) if not sure]
            if not still:
                return
            places = stage(still, torch.int64)
            rows, scores, *raw = (part[places] for part in (rows, scores, *raw))

    def likelihoods(self) -> Likelihoods | None:
        """Return those of what was drawn; None if they were not asked for."""
        if self._likelihoods is None:
            return None
        wanted = [min(draw.sampling.logprobs or 0, self._vocabulary.size) for draw in self._draws]
        return Likelihoods(self._likelihoods, wanted, self._own)

    def _candidates(self, pick_noisy: PickNoisy) -> tuple[Tensor, Tensor]:
        """Return this rank's candidates' values and columns, both [rows, n]; filters come before the noise."""
        given, form = self._parameters, self._form
        match form.kind:
            case Kind.LIKELIEST:
                return pick_likeliest(self._logits)
            case Kind.NOISY:
                return pick_noisy(self._logits, given.temperatures, given.keys, self._vocabulary.own.start)
            case Kind.FILTERED:
                self._logits = self._logits / given.temperatures.unsqueeze(-1)
                values, places = self._logits.topk(min(form.num_candidates, len(self._vocabulary.own)), dim=-1)
                return values, places

    def _filter(self, rows: Tensor | None, ranked: Found, bound: Tensor) -> Tensor:
        """Draw from what filters keep of some rows; return for which of them nothing else could be kept, [rows] bool.

        Args:
            rows: Which of the draws [n] int64; None for all.
            ranked: Their likeliest tokens, in order.
            bound: See `keep_tokens`.
        """
        masses, keys, filters = self._masses, self._parameters.keys, self._parameters.filters
        assert filters is not None, "the form is of filtered draws"
        if rows is not None:
            keys, filters = keys[rows], filters.select(rows)
            if masses is not None:
                masses = Masses(masses.largest[rows], masses.total[rows], masses.moment[rows])
        kept, is_sure = keep_tokens(ranked.scores, bound, filters, masses)
        last = _last_column(kept)  # noise on what comes behind is of no use
        cut = ranked.first_columns(last)
        self._take(rows, cut, (cut.scores + gumbel_noise(keys, cut.ids)).masked_fill_(~kept[:, :last], -torch.inf))
        return is_sure

    def _take(self, rows: Tensor | None, found: Found, scores: Tensor) -> None:
        """Take the best candidate of some rows, the lowest id of equals; the fallback if there is none."""
        best = scores.amax(-1, keepdim=True)
        tokens = torch.where(scores == best, found.ids, NO_ID).amin(-1)
        is_none = ~(best > -torch.inf).squeeze(-1)  # also where it is no number
        fallbacks = self._parameters.fallbacks
        if self._own is not None and found.raw is not None:
            place = (found.ids == tokens.unsqueeze(-1)).to(torch.uint8).argmax(-1, keepdim=True)
            raw = found.raw.gather(-1, place).squeeze(-1)
            own = torch.where(is_none, self._own if rows is None else self._own[rows], raw)
            self._own = own if rows is None else self._own.index_copy(0, rows, own)
        tokens = torch.where(is_none, fallbacks if rows is None else fallbacks[rows], tokens)
        self.tokens = tokens if rows is None else self.tokens.index_copy(0, rows, tokens)

    def _whole(self, parts: Tensor) -> Tensor:
        """Return whole rows [rows, vocabulary] from all ranks' padded ones."""
        return torch.cat([part[:, : len(shard)] for part, shard in zip(parts, self._shards, strict=True)], dim=-1)


def _last_column(kept: Tensor) -> int:
    """Return how many columns hold what is kept [rows, n]; where the host would have to wait for that, all."""
    if not kept.is_cpu:
        return kept.shape[-1]
    return int(kept.any(0).nonzero().amax()) + 1 if kept.any() else 1
