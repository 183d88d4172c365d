"""What is to be drawn, and what was."""

from collections.abc import Sequence
from dataclasses import dataclass

from liger.domain import Sampling
from liger.schedule import Logprob
from worker.sampling.controls import Controls
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """The tokens of a batch."""

    token_ids: tuple[int, ...]  # one a draw
    logprobs: tuple[Logprob, ...]  # of the draws that asked, in order


def count_drawn(draws: Sequence[Draw], drawn: Drawn) -> None:
    """Count drawn tokens where their sequences have penalties, and queue them where they have constraints."""
    for draw, token in zip(draws, drawn.token_ids, strict=True):
        if draw.controls is not None:
            draw.controls.add(token)
        if draw.output is not None:
            draw.output.advance(token)
