"""The numbers that say how a batch's rows are drawn, brought to the device by one copy."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from worker.sampling.draw import Draw
from worker.sampling.filters import Filters, filter_columns
from worker.sampling.forms import Form, Kind
from worker.sampling.noise import noise_key
from worker.sampling.transfers import Stage

_COLDEST: Final = 1e-6  # temperatures below are taken as this, so that logits stay finite


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of the rows of one form; each [rows]."""

    places: Tensor  # int64: which of the batch's draws they are
    keys: Tensor  # int64, of their noise; 0 where there is none
    fallbacks: Tensor  # int64: what is drawn if nothing may be
    temperatures: Tensor  # float32, above 0
    filters: Filters | None  # of filtered rows


def stage_parameters(
    draws: Sequence[Draw], groups: Mapping[Form, Sequence[int]], size: int, stage: Stage
) -> list[Parameters]:
    """Return the parameters of each group of a batch's draws.

    Args:
        draws: All of the batch.
        groups: Rows of each form, every row once.
        size: Of the whole vocabulary.
        stage: To the device.
    """
    if not draws:
        return []
    kinds = [(form.kind, draws[row]) for form, rows in groups.items() for row in rows]
    ordered = [draw for _, draw in kinds]
    columns = [
        [row for rows in groups.values() for row in rows],
        [_key(draw) if kind is not Kind.LIKELIEST else 0 for kind, draw in kinds],
        [draw.fallback if draw.fallback < size else 0 for draw in ordered],
        _bits([max(draw.sampling.temperature, _COLDEST) for draw in ordered]),
    ]
    if any(form.kind is Kind.FILTERED for form in groups):
        columns += [_bits(column) for column in filter_columns([draw.sampling for draw in ordered])]
    table = stage([number for column in columns for number in column], torch.int64).view(len(columns), -1)
    temperatures = table[3].view(torch.float64).to(torch.float32)
    parts, first = [], 0
    for form, rows in groups.items():
        own = slice(first, first + len(rows))
        first += len(rows)
        filters = None
        if form.kind is Kind.FILTERED:
            filters = Filters.of(table[4:, own].view(torch.float64), [draws[row].sampling for row in rows])
        parts.append(Parameters(table[0, own], table[1, own], table[2, own], temperatures[own], filters))
    return parts


def _key(draw: Draw) -> int:
    return noise_key(draw.sampling.seed, draw.sample, draw.position)


def _bits(numbers: Sequence[float]) -> list[int]:
    """Return float64 numbers as the int64 of the same bits."""
    return memoryview(array("d", numbers)).cast("B").cast("q").tolist()
