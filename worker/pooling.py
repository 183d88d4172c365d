"""Vectors and class scores of an encode batch's inputs, from its hidden states."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from liger.domain import ClassifyOutput, EncodeOutput, Pooling, PoolOutput
from worker.sampling.transfers import Fetch, Stage
from worker.shards.shard import Shard

_LEAST_NORM: Final = 1e-12  # as torch's normalize has it


@dataclass(frozen=True, slots=True)
class _Table:
    """Vectors of some inputs, [inputs, n] float32."""

    items: Sequence[int]  # which inputs
    widths: Sequence[int]  # of each, how many columns are its vector
    values: Tensor


class Vectors:
    """What the inputs that ask for a vector or for class scores get. On the device until it is read.

    Args:
        shard: This rank's.
        outputs: What becomes of each input.
        spans: Each input's rows of the hidden states.
        hidden: [num_tokens, output_size].
        stage: Brings numbers to the device.
    """

    def __init__(
        self, shard: Shard, outputs: Sequence[EncodeOutput], spans: Sequence[range], hidden: Tensor, stage: Stage
    ) -> None:
        pools = [(item, one, spans[item]) for item, one in enumerate(outputs) if isinstance(one, PoolOutput)]
        classes = [(item, spans[item]) for item, one in enumerate(outputs) if isinstance(one, ClassifyOutput)]
        rows = [
            (item, span.start if shard.spec.classifier_pooling is Pooling.CLS else span.stop - 1)
            for item, span in classes
        ]
        if hidden.is_cpu:  # where launches cost nothing, an input's numbers do not depend on the batch it is in
            self._tables = [*_pooled_alone(hidden, pools), *_classified_alone(shard, hidden, rows)]
        else:
            self._tables = [*pooled_together(hidden, pools, stage), *_classified_together(shard, hidden, rows, stage)]

    def read(self, fetch: Fetch) -> Callable[[], dict[int, tuple[float, ...]]]:
        """Begin to copy to the host; what is returned gives the values by input, once that has ended."""
        tables = [(table, fetch(table.values)) for table in self._tables]
        return lambda: {
            item: tuple(row[:width])
            for table, values in tables
            for item, width, row in zip(table.items, table.widths, values.tolist(), strict=True)
        }


_Pool = tuple[int, PoolOutput, range]


def _pooled_alone(hidden: Tensor, pools: Iterable[_Pool]) -> list[_Table]:
    vectors = [(item, _pool(hidden[span.start : span.stop], output)) for item, output, span in pools]
    return [_Table([item], [len(vector)], vector.unsqueeze(0)) for item, vector in vectors]


def _classified_alone(shard: Shard, hidden: Tensor, rows: Iterable[tuple[int, int]]) -> list[_Table]:
    scores = [(item, shard.classify(hidden[row : row + 1])) for item, row in rows]
    return [_Table([item], [own.shape[-1]], own) for item, own in scores]


def pooled_together(hidden: Tensor, pools: Sequence[_Pool], stage: Stage) -> list[_Table]:
    """Pool inputs of an encode batch by few launches: as means over their spans, or over one token of each."""
    if not pools:
        return []
    width = hidden.shape[-1]
    spans = [_pooled_span(output, span) for _, output, span in pools]
    places = [place for span in spans for place in span]
    widths = [min(output.dimensions or width, width) for _, output, _ in pools]
    numbers = stage(
        [*places, *map(len, spans), *widths, *(int(output.normalize) for _, output, _ in pools)], torch.int64
    )
    rows, lengths, ends, normalized = torch.split(numbers, [len(places), *[len(pools)] * 3])
    tokens = hidden.index_select(0, rows).to(torch.float32)
    vectors = torch.segment_reduce(tokens, "mean", lengths=lengths, axis=0, unsafe=True)
    vectors = torch.where(torch.arange(width, device=hidden.device) < ends.unsqueeze(-1), vectors, 0.0)
    norms = vectors.norm(dim=-1, keepdim=True).clamp_(min=_LEAST_NORM)
    vectors = torch.where(normalized.unsqueeze(-1) > 0, vectors / norms, vectors)
    return [_Table([item for item, _, _ in pools], widths, vectors)]


def _classified_together(shard: Shard, hidden: Tensor, rows: Sequence[tuple[int, int]], stage: Stage) -> list[_Table]:
    if not rows:
        return []
    scores = shard.classify(hidden.index_select(0, stage([row for _, row in rows], torch.int64)))
    return [_Table([item for item, _ in rows], [scores.shape[-1]] * len(rows), scores)]


def _pooled_span(output: PoolOutput, span: range) -> range:
    match output.pooling:
        case Pooling.MEAN:
            return span
        case Pooling.CLS:
            return span[:1]
        case Pooling.LAST:
            return span[-1:]


def _pool(hidden: Tensor, output: PoolOutput) -> Tensor:
    """Return one vector of an input's hidden states [tokens, output_size], in float32."""
    match output.pooling:
        case Pooling.MEAN:
            vector = hidden.to(torch.float32).mean(0)
        case Pooling.CLS:
            vector = hidden[0].to(torch.float32)
        case Pooling.LAST:
            vector = hidden[-1].to(torch.float32)
    if output.dimensions:
        vector = vector[: output.dimensions]
    return torch.nn.functional.normalize(vector, dim=0) if output.normalize else vector
