"""Changes logits before tokens are drawn: penalties, then biases, then masks (see docs/sampling.md)."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from worker.sampling.controls import OwnControls, Vocabulary, is_anything_left
from worker.sampling.draw import Draw

_MOST: Final = 1e30  # of a penalised logit, so that it stays finite over any temperature


def adjust_logits(
    logits: Tensor, draws: Sequence[Draw], masks: Sequence[Tensor | None], vocabulary: Vocabulary
) -> None:
    """Change logits in place.

    Args:
        logits: [draws, own vocabulary rows] float32.
        draws: One a row.
        masks: One a row: [whole vocabulary] bool, what a grammar allows; None for all. Empty for none at all.
        vocabulary: Whose logits they are.
    """
    controls = [draw.controls.of(vocabulary) if draw.controls else None for draw in draws]
    controlled = [(row, own) for row, own in enumerate(controls) if own is not None]
    if controlled:
        _penalise(logits, [(row, own) for row, own in controlled if len(own.seen)])
        _bias(logits, [(row, own) for row, own in controlled if len(own.biases)])
    for row, (draw, own) in enumerate(zip(draws, controls, strict=True)):
        _mask(logits[row], draw, own.allowed if own else None, masks[row] if masks else None, vocabulary)


def _penalise(logits: Tensor, rows: Sequence[tuple[int, OwnControls]]) -> None:
    """Apply repetition, then presence and frequency penalties to what was seen, all rows at once."""
    if not rows:
        return
    places = torch.cat([own.seen + row * logits.shape[-1] for row, own in rows]).to(logits.device)
    counts = torch.cat([own.counts for _, own in rows]).to(logits.device)
    sizes = torch.tensor([len(own.seen) for _, own in rows])
    repetition, presence, frequency = (
        torch.tensor(values, dtype=torch.float32).repeat_interleave(sizes).to(logits.device)
        for values in zip(*(_penalties(own) for _, own in rows), strict=True)
    )
    flat = logits.view(-1)
    values = flat[places]
    values = torch.where(values < 0, values * repetition, values / repetition)
    values -= presence * (counts > 0) + frequency * counts
    flat[places] = values.clamp_(-_MOST, _MOST)


def _penalties(own: OwnControls) -> tuple[float, float, float]:
    sampling = own.sampling
    return sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty


def _bias(logits: Tensor, rows: Sequence[tuple[int, OwnControls]]) -> None:
    for row, own in rows:
        logits[row].index_add_(0, own.bias_places.to(logits.device), own.biases.to(logits.device))


def _mask(logits: Tensor, draw: Draw, allowed: Tensor | None, mask: Tensor | None, vocabulary: Vocabulary) -> None:
    """Forbid tokens of one row, [own vocabulary rows] float32."""
    if mask is not None:
        allowed = mask if allowed is None else allowed & mask
    if allowed is not None:
        logits.masked_fill_(~allowed[vocabulary.own.start : vocabulary.own.stop].to(logits.device), -torch.inf)
    if draw.banned and is_anything_left(allowed, draw.banned, vocabulary.size):
        logits[vocabulary.places(draw.banned)] = -torch.inf
