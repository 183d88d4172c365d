"""Changes logits before tokens are drawn: penalties, then biases, then masks (see docs/sampling.md)."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from worker.sampling.controls import OwnControls, Vocabulary, is_anything_left
from worker.sampling.draw import Draw
from worker.sampling.transfers import Stage, put

_MOST: Final = 1e30  # of a penalised logit, so that it stays finite over any temperature


def adjust_logits(
    logits: Tensor, draws: Sequence[Draw], masks: Sequence[Tensor | None], vocabulary: Vocabulary, stage: Stage
) -> None:
    """Change logits in place.

    Args:
        logits: [draws, own vocabulary rows] float32.
        draws: One a row.
        masks: One a row, on the host: [whole vocabulary] bool, what a grammar allows; None for all. Empty for none at
            all.
        vocabulary: Whose logits they are.
        stage: To their device.
    """
    controls = [draw.controls.of(vocabulary, logits.device) if draw.controls else None for draw in draws]
    controlled = [(row, own) for row, own in enumerate(controls) if own is not None]
    if controlled:
        _penalise(logits, [(row, own) for row, own in controlled if len(own.seen)])
        _bias(logits, [(row, own) for row, own in controlled if len(own.biases)])
        _forbid(logits, [(row, own.forbidden) for row, own in controlled if own.forbidden is not None])
    own_rows = slice(vocabulary.own.start, vocabulary.own.stop)
    masked = [(row, ~mask[own_rows]) for row, mask in enumerate(masks) if mask is not None]
    if masked:
        table = put(torch.stack([mask for _, mask in masked]), logits.device)
        _forbid(logits, [(row, forbidden) for (row, _), forbidden in zip(masked, table, strict=True)])
    _ban(logits, _banned_places(draws, controls, masks, vocabulary), stage)


def _penalise(logits: Tensor, rows: Sequence[tuple[int, OwnControls]]) -> None:
    """Apply repetition, then presence and frequency penalties to what was seen, all rows at once."""
    if not rows:
        return
    places = put(torch.cat([own.seen + row * logits.shape[-1] for row, own in rows]), logits.device)
    sizes = torch.tensor([len(own.seen) for _, own in rows])
    penalties = torch.tensor([_penalties(own) for _, own in rows], dtype=torch.float32).repeat_interleave(sizes, dim=0)
    numbers = torch.cat([torch.cat([own.counts for _, own in rows]).unsqueeze(0), penalties.T])
    counts, repetition, presence, frequency = put(numbers, logits.device)
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
        logits[row].index_add_(0, own.bias_places, own.biases)


def _forbid(logits: Tensor, rows: Sequence[tuple[int, Tensor]]) -> None:
    """Forbid some tokens of rows, each [own vocabulary rows] bool."""
    for row, forbidden in rows:
        logits[row].masked_fill_(forbidden, -torch.inf)


def _banned_places(
    draws: Sequence[Draw],
    controls: Sequence[OwnControls | None],
    masks: Sequence[Tensor | None],
    vocabulary: Vocabulary,
) -> list[int]:
    """Return the flat places of stop tokens that come too early, in rows where something else may be drawn."""
    places: list[int] = []
    for row, (draw, own) in enumerate(zip(draws, controls, strict=True)):
        if not draw.banned:
            continue
        allowed, mask = own.allowed if own else None, masks[row] if masks else None
        if mask is not None:
            allowed = mask if allowed is None else allowed & mask
        if is_anything_left(allowed, draw.banned, vocabulary.size):
            places += [row * len(vocabulary.own) + place for place in vocabulary.places(draw.banned)]
    return places


def _ban(logits: Tensor, places: Sequence[int], stage: Stage) -> None:
    if places:
        logits.view(-1).index_fill_(0, stage(places, torch.int64), -torch.inf)
