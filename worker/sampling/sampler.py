"""Draws tokens in two steps: candidates of each vocabulary shard, then the choice among all ranks' candidates.

See docs/sampling.md. Rows that filters leave undecided are gathered whole, which all ranks find out from the same data.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from liger.schedule import Logprob
from worker.sampling.adjust import adjust_logits
from worker.sampling.controls import Vocabulary
from worker.sampling.draw import Draw, Drawn
from worker.sampling.forms import group_rows
from worker.sampling.groups import Group

AskAgain = Callable[[Tensor], Sequence[Tensor]]
"""Gathers a tensor of the same size from all ranks, in rank order."""


class Sampler:
    """Draws from logits that are split over ranks by vocabulary.

    Args:
        shards: Vocabulary rows of each rank, in rank order, contiguous.
        rank: This rank.
    """

    def __init__(self, shards: Sequence[range], rank: int) -> None:
        self._shards = shards
        self._vocabulary = Vocabulary(shards[rank], shards[-1].stop)

    def candidates(self, logits: Tensor, draws: Sequence[Draw], masks: Sequence[Tensor | None] = ()) -> "Candidates":
        """Return what this rank knows of some draws.

        Args:
            logits: [draws, own vocabulary rows] float32; changed in place.
            draws: One a row.
            masks: One a row, alike on all ranks: [whole vocabulary] bool, what a grammar allows; None for all. Empty
                for none at all.
        """
        groups = group_rows(draws, max(map(len, self._shards)))
        raw = {form: logits[rows] for form, rows in groups.items() if form.num_rivals is not None}
        adjust_logits(logits, draws, masks, self._vocabulary)
        parts = [
            Group(
                form,
                [draws[row] for row in rows],
                self._shards,
                self._vocabulary,
                logits=logits if len(rows) == len(draws) else logits[rows],
                raw=raw.get(form),
            )
            for form, rows in groups.items()
        ]
        return Candidates(draws, list(zip(groups.values(), parts, strict=True)))


class Candidates:
    """What one rank knows of a batch's draws; made by `Sampler`.

    Args:
        draws: One a row.
        groups: Rows of like draws, with their places among the draws.
    """

    def __init__(self, draws: Sequence[Draw], groups: Sequence[tuple[list[int], Group]]) -> None:
        self._draws = draws
        self._groups = groups
        packed = [group.pack().flatten() for _, group in groups]
        self.payload = torch.cat(packed) if packed else torch.zeros(0)  # what this rank sends, float32

    def choose(self, parts: Sequence[Tensor], ask_again: AskAgain) -> Drawn:
        """Draw from all ranks' candidates; the same on every rank.

        Args:
            parts: Their payloads, in rank order.
            ask_again: Called at most once, on all ranks or on none.
        """
        table = torch.stack(list(parts))  # [ranks, size]
        for _, group in self._groups:
            group.choose(table[:, : group.size].reshape(-1, *group.shape))
            table = table[:, group.size :]
        self._settle(ask_again)
        tokens: dict[int, int] = {}
        logprobs: dict[int, Logprob] = {}
        for rows, group in self._groups:
            tokens.update(zip(rows, group.tokens(), strict=True))
            logprobs.update(zip(rows, group.logprobs(), strict=False))
        order = range(len(self._draws))
        return Drawn(
            token_ids=tuple(tokens[row] for row in order),
            logprobs=tuple(logprobs[row] for row in order if row in logprobs),
        )

    def _settle(self, ask_again: AskAgain) -> None:
        """Gather the undecided rows whole and draw from them."""
        undecided = [group for _, group in self._groups if group.undecided]
        if not undecided:
            return
        rests = [group.rest() for group in undecided]  # [rows, width of the largest shard]
        table = torch.stack(list(ask_again(torch.cat([rest.flatten() for rest in rests]))))
        for group, rest in zip(undecided, rests, strict=True):
            group.choose_again(table[:, : rest.numel()].reshape(-1, *rest.shape))
            table = table[:, rest.numel() :]
