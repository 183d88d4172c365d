"""Draws tokens in two steps: candidates of each vocabulary shard, then the choice among all ranks' candidates.

See docs/sampling.md. Rows that filters leave undecided are gathered whole, which all ranks find out from the same data.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from worker.sampling.adjust import adjust_logits
from worker.sampling.controls import Vocabulary
from worker.sampling.draw import Draw, Drawn
from worker.sampling.forms import group_rows
from worker.sampling.groups import Group
from worker.sampling.parameters import Parameters, stage_parameters
from worker.sampling.picking import PickNoisy, pick_noisy
from worker.sampling.transfers import Stage, stage_here

AskAgain = Callable[[Tensor], Sequence[Tensor]]
"""Gathers a tensor of the same size from all ranks, in rank order."""

_NO_TOKENS: Final = torch.zeros(0, dtype=torch.int64)


class Sampler:
    """Draws from logits that are split over ranks by vocabulary.

    Args:
        shards: Vocabulary rows of each rank, in rank order, contiguous.
        rank: This rank.
        stage: Brings numbers to the logits' device.
        pick: What is drawn of a shard where nothing is filtered.
    """

    def __init__(
        self, shards: Sequence[range], rank: int, stage: Stage = stage_here, pick: PickNoisy = pick_noisy
    ) -> None:
        self._shards = shards
        self._vocabulary = Vocabulary(shards[rank], shards[-1].stop)
        self._stage = stage
        self._pick = pick

    def candidates(self, logits: Tensor, draws: Sequence[Draw], masks: Sequence[Tensor | None] = ()) -> "Candidates":
        """Return what this rank knows of some draws; does not wait for the device.

        Args:
            logits: [draws, own vocabulary rows] float32; changed in place.
            draws: One a row.
            masks: One a row, alike on all ranks, on the host: [whole vocabulary] bool, what a grammar allows; None for
                all. Empty for none at all.
        """
        forms = group_rows(draws, max(map(len, self._shards)))
        given = stage_parameters(draws, forms, self._vocabulary.size, self._stage)
        raw = [
            logits.index_select(0, one.places) if form.num_rivals is not None else None
            for form, one in zip(forms, given, strict=True)
        ]
        adjust_logits(logits, draws, masks, self._vocabulary, self._stage)
        groups = [
            Group(
                form,
                [draws[row] for row in rows],
                one,
                self._shards,
                self._vocabulary,
                logits=logits if len(rows) == len(draws) else logits.index_select(0, one.places),
                raw=own,
            )
            for (form, rows), one, own in zip(forms.items(), given, raw, strict=True)
        ]
        packed = [group.pack(self._pick).flatten() for group in groups]
        payload = _joined(packed) if packed else logits.new_zeros(0)
        return Candidates(list(zip(forms.values(), given, groups, strict=True)), payload, self._stage)


class Candidates:
    """What one rank knows of a batch's draws; made by `Sampler`.

    Args:
        groups: Rows of like draws, each with their places among the draws, and those on the device.
        payload: What this rank sends, float32.
        stage: Brings numbers to the device.
    """

    def __init__(self, groups: Sequence[tuple[list[int], Parameters, Group]], payload: Tensor, stage: Stage) -> None:
        self.payload = payload
        self._groups = groups
        self._stage = stage

    def choose(self, parts: Sequence[Tensor], ask_again: AskAgain) -> Drawn:
        """Draw from all ranks' candidates; the same on every rank.

        Waits for the device only where filters may leave rows undecided.

        Args:
            parts: Their payloads, in rank order.
            ask_again: Called at most once, on all ranks or on none.
        """
        if not self._groups:
            return Drawn(tokens=_NO_TOKENS.to(self.payload.device))
        table = torch.stack(list(parts))  # [ranks, size]
        for _, _, group in self._groups:
            group.choose(table[:, : group.size].reshape(-1, *group.shape))
            table = table[:, group.size :]
        self._settle(ask_again)
        likelihoods = [(tuple(rows), group.likelihoods()) for rows, _, group in self._groups]
        return Drawn(
            tokens=self._in_order(),
            likelihoods=tuple((rows, own) for rows, own in likelihoods if own is not None),
        )

    def _settle(self, ask_again: AskAgain) -> None:
        """Gather the undecided rows whole and draw from them."""
        unsure = [(group, group.is_sure) for _, _, group in self._groups if group.is_sure is not None]
        if not unsure:
            return
        flags = iter(torch.cat([is_sure for _, is_sure in unsure]).tolist())  # waits for the device
        rows = [[row for row in range(len(is_sure)) if not next(flags)] for _, is_sure in unsure]
        rests = [
            (group, group.rest(own, self._stage)) for (group, _), own in zip(unsure, rows, strict=True) if own
        ]  # [rows, width of the largest shard]
        if not rests:
            return
        table = torch.stack(list(ask_again(torch.cat([rest.flatten() for _, rest in rests]))))
        for group, rest in rests:
            group.choose_again(table[:, : rest.numel()].reshape(-1, *rest.shape), self._stage)
            table = table[:, rest.numel() :]

    def _in_order(self) -> Tensor:
        """Return the groups' tokens in the order of the draws, [draws] int64."""
        joined = _joined([group.tokens for _, _, group in self._groups])
        if len(self._groups) == 1:
            return joined
        places = torch.cat([given.places for _, given, _ in self._groups])
        return joined.new_empty(len(joined)).index_copy_(0, places, joined)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
