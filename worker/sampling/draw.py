"""What is to be drawn, and what was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from liger.domain import Sampling
from liger.schedule import Logprob
from worker.sampling.controls import Controls
from worker.sampling.likelihood import Likelihoods
from worker.sampling.transfers import Fetch
from worker.structured.matchers import FollowedOutput


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One token to draw."""

    sampling: Sampling
    sample: int  # which sample of its request
    position: int  # of the token to draw, in its sequence
    banned: tuple[int, ...] = ()  # stop tokens that come too early here; drawn all the same if nothing else may be
    fallback: int = 0  # what is drawn if nothing may be
    controls: Controls | None = None  # of its sequence, this rank's; None if nothing changes its logits
    output: FollowedOutput | None = None  # of its sequence, this rank's; None if it may be anything


Read = Callable[[], tuple[tuple[int, ...], tuple[Logprob, ...]]]
"""Gives a batch's tokens, one a draw, and the likelihoods of the draws that asked, in order."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drawn:
    """The tokens of a batch, on the device."""

    tokens: Tensor  # [draws] int64
    likelihoods: tuple[tuple[tuple[int, ...], Likelihoods], ...] = ()  # with the draws that they are of

    def read(self, fetch: Fetch) -> Read:
        """Begin to copy to the host; what is returned may be called once that has ended, on any thread."""
        tokens = fetch(self.tokens)
        reads = [(rows, likelihoods.read(fetch)) for rows, likelihoods in self.likelihoods]
        return lambda: _on_host(tokens, reads)


def _on_host(
    tokens: Tensor, reads: Sequence[tuple[Sequence[int], Callable[[Sequence[int]], tuple[Logprob, ...]]]]
) -> tuple[tuple[int, ...], tuple[Logprob, ...]]:
    token_ids: tuple[int, ...] = tuple(tokens.tolist())
    logprobs: dict[int, Logprob] = {}
    for rows, read in reads:
        logprobs.update(zip(rows, read([token_ids[row] for row in rows]), strict=True))
    return token_ids, tuple(logprobs[row] for row in sorted(logprobs))


def needs_host(draws: Sequence[Draw]) -> bool:
    """Return whether the host must know what is drawn before it draws for these sequences again."""
    return any(draw.output is not None or (draw.controls is not None and draw.controls.counts) for draw in draws)


def count_drawn(draws: Sequence[Draw], drawn: Drawn) -> None:
    """Count drawn tokens where their sequences have penalties, and queue them where they have constraints.

    Waits for the device if there are any such.
    """
    if not needs_host(draws):
        return
    for draw, token in zip(draws, drawn.tokens.tolist(), strict=True):
        if draw.controls is not None:
            draw.controls.add(token)
        if draw.output is not None:
            draw.output.advance(token)
