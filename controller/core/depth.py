"""Decides how many batches may be in flight, and whether a batch is better run as two: from predicted times.

With one batch in flight a group is plain tensor parallelism. A further batch pays as long as a lane is idle: with C the
compute and M the communication of a batch, d batches end in max(d·C, d·M, C + M) at best. So the depth is the least
that is near the most that any depth gains, and 1 where nothing is gained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import log2
from typing import Final

from controller.core.batch import Batch
from controller.core.cost_model import CostModel, Shape
from controller.core.plan import Forwards, Strategy
from controller.core.situation import MIXED_SHARE, bucketed
from liger.domain import BatchKind, Lane, SegmentKind
from liger.views import DecodeChoice

_ENOUGH: Final = 0.98  # of the most that any depth gains
_LEAST_GAIN: Final = 1.02  # below it one batch at a time is as good
_SIZES: Final = tuple(1 << power for power in range(5, 15))  # tokens of batches that others interleave with
_FILL: Final = 1  # batches beyond the ideal, so that a lane finds work when times vary


@dataclass(frozen=True, slots=True)
class Load:
    """A batch's time on each lane, in ns, beside others."""

    compute: float
    communication: float
    alone: float  # from its begin to its end with the lanes to itself


class DepthControl:
    """Depth of one group.

    Args:
        strategy: How batches share the ranks.
        num_stages: Pipeline stages.
        max_depth: Slots on the ranks.
        forwards: What each kind of batch runs.
        costs: Predicts durations; None where nothing was measured.
        window_ns: How long a window is.
    """

    def __init__(
        self,
        *,
        strategy: Strategy,
        num_stages: int,
        max_depth: int,
        forwards: Forwards,
        costs: CostModel | None,
        window_ns: float = 20e6,
    ) -> None:
        self.max_depth = max_depth
        self.decode_choice: DecodeChoice | None = None  # the last that was made
        self._strategy = strategy
        self._num_stages = num_stages
        self._forwards = forwards
        self._costs = costs
        self._loads = cache(self._load)
        self._depths = cache(self._depth_of)
        self._beside = cache(self._tokens_beside)
        self._window_ns = window_ns

    def depth(self, in_flight: Sequence[Batch], *, time_left_ns: float | None = None) -> int:
        """Return how many batches may be in flight beside those that are.

        Args:
            in_flight: Batches with segments left, oldest first.
            time_left_ns: Until the nearest deadline among them; a batch that barely meets it runs alone.
        """
        if self._strategy is Strategy.TENSOR or (self._strategy is Strategy.INTERLEAVED and self._costs is None):
            return 1
        if self._strategy is Strategy.PIPELINE or self._costs is None or not in_flight:
            return self.max_depth
        version = self._costs.version
        oldest = bucketed(in_flight[0].shape)
        alone = self._loads(oldest, version).alone
        alone *= 1 - in_flight[0].position / len(self._forwards[oldest.kind])  # what is left of it
        if time_left_ns is not None and alone < time_left_ns < alone * 1.5:
            return len(in_flight)
        kinds = {batch.kind for batch in in_flight}
        mixed = len(kinds) > 1 or BatchKind.DECODE in kinds  # unlike lengths fill each other's gaps
        return min(self._depths(oldest, version) + mixed, self.max_depth)

    def num_groups(self, num_sequences: int, context: int, *, beside_others: bool = False) -> int:
        """Return in how many decode batches so many sequences should run.

        Args:
            num_sequences: That decode.
            context: Tokens behind each, on average.
            beside_others: Whether prefill or encode batches fill the gaps of one; two would read the weights twice.
        """
        if self._strategy is Strategy.PIPELINE:
            return min(self._num_stages, num_sequences) or 1
        if self._strategy is Strategy.TENSOR or self._costs is None or num_sequences < 2 or self.max_depth < 2:
            self.decode_choice = DecodeChoice(num_batches=1)
            return 1
        split_ns, merged_ns = self._halves(Shape(BatchKind.DECODE, num_sequences, context), self._costs)
        num_groups = 2 if split_ns * _LEAST_GAIN < merged_ns and not beside_others else 1
        self.decode_choice = DecodeChoice(num_batches=num_groups, merged_ns=merged_ns, split_ns=split_ns)
        return num_groups

    def tokens_beside(self, kind: BatchKind) -> int | None:
        """Return how many tokens a batch may have that others interleave with; None if nothing is known.

        So many that a layer takes no longer than such a batch's window: others then wait for one window at a time.
        """
        if self._strategy is not Strategy.INTERLEAVED or self._costs is None:
            return None
        step_ns = (self.decode_choice.merged_ns or 0.0) if self.decode_choice else 0.0
        window_ns = max(self._window_ns, MIXED_SHARE * step_ns)
        return self._beside(kind, round(log2(window_ns)), self._costs.version)

    def num_parts(self, kind: BatchKind, num_tokens: int) -> int:
        """Return in how many batches so many waiting tokens should run that would fit one."""
        if self._strategy is not Strategy.INTERLEAVED or self._costs is None or num_tokens < 2 or self.max_depth < 2:
            return 1
        split_ns, whole_ns = self._halves(Shape(kind, num_tokens), self._costs)
        return 2 if split_ns * _LEAST_GAIN < whole_ns else 1

    def _halves(self, whole: Shape, costs: CostModel) -> tuple[float, float]:
        """Return how long two interleaved halves of a batch take, and the whole."""
        half = replace(whole, num_tokens=(whole.num_tokens + 1) // 2)
        load = self._loads(bucketed(half), costs.version)
        fill = min(load.compute, load.communication) / self._num_layers(half.kind)
        pair_ns = max(2 * max(load.compute, load.communication), load.alone) + fill
        return pair_ns, self._loads(bucketed(whole), costs.version).alone

    def _tokens_beside(self, kind: BatchKind, magnitude: int, version: int) -> int:
        """Return the most tokens, of powers of 2, whose layer fits a window of so many ns (a power of 2)."""
        limit_ns = (1 << magnitude) * self._num_layers(kind)
        fitting = [size for size in _SIZES if self._loads(Shape(kind, size), version).alone <= limit_ns]
        return fitting[-1] if fitting else _SIZES[0]

    def _depth_of(self, shape: Shape, version: int) -> int:
        load = self._loads(shape, version)
        gains = [1.0] + [
            load.alone / max(load.compute, load.communication, load.alone / depth)
            for depth in range(2, self.max_depth + 1)
        ]
        if gains[-1] < _LEAST_GAIN:
            return 1
        ideal = next(depth for depth, gain in enumerate(gains, 1) if gain >= _ENOUGH * gains[-1])
        return min(ideal + _FILL, self.max_depth)

    def _load(self, shape: Shape, version: int) -> Load:  # noqa: ARG002 - names the costs in the cache
        assert self._costs is not None, "asked with costs only"
        beside_compute, beside_exchange = self._costs.contention(SegmentKind.MLP, shape.num_tokens, shape.num_tokens)
        lanes, alone = dict.fromkeys(Lane, 0.0), 0.0
        for segment in self._forwards[shape.kind]:
            duration_ns = self._costs.duration_ns(shape, segment.kind)
            lanes[segment.lane] += duration_ns * self._costs.held_share(shape, segment.kind)
            alone += duration_ns
        compute, communication = lanes[Lane.COMPUTE], lanes[Lane.COMMUNICATION]
        overlap = min(compute, communication)
        return Load(
            compute=compute + overlap * (beside_compute - 1),
            communication=communication + overlap * (beside_exchange - 1),
            alone=alone,
        )

    def _num_layers(self, kind: BatchKind) -> int:
        return max(1, sum(segment.kind is SegmentKind.MLP for segment in self._forwards[kind]))
