"""Times exchanges, alone and beside compute."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from liger.domain import SegmentKind
from worker.communicator.base import Communicator, Exchange
from worker.profiler.agreement import Agreement
from worker.profiler.batches import TimedBatch
from worker.profiler.contention import balanced, factors
from worker.profiler.plan import ExchangeSize
from worker.profiler.sweep import Run

PARTS_PER_MILLION: Final = 1_000_000


class ExchangeBench:
    """Exchanges of this rank's stage, in which all its ranks take part.

    Args:
        communicator: Of the stage.
        hidden_size: Width of activations.
        dtype: Of activations.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self, communicator: Communicator, *, hidden_size: int, dtype: torch.dtype, clock_ns: Callable[[], int]
    ) -> None:
        self._communicator = communicator
        self._agreement = Agreement(communicator)
        self._hidden_size = hidden_size
        self._dtype = dtype
        self._clock_ns = clock_ns

    def exchange(self, cell: ExchangeSize) -> Run:
        """Return what measures one exchange: its nanoseconds, from when all ranks are there."""
        if cell.segment is SegmentKind.GATHER:
            part = torch.zeros(2 * cell.size)  # a value and an id for each row
            return lambda: (self._alone(lambda: self._communicator.all_gather(part)),)
        partial = self._partial(cell.size)
        return lambda: (self._alone(lambda: self._communicator.all_reduce(partial)),)

    def co_run(self, batch: TimedBatch, kind: SegmentKind, exchange_tokens: int) -> Run:
        """Return what measures compute beside all-reduces: the factors of both, in millionths."""
        act = batch.begin()
        num_computes, partials = 1, [self._partial(exchange_tokens)]

        def compute() -> None:
            for _ in range(num_computes):
                batch.compute(kind, act)

        self._together(compute, partials)  # the first run of a shape takes longer
        counts = balanced(*self._agreement.slowest(self._each_alone(compute, partials)))
        num_computes, partials = counts[0], [self._partial(exchange_tokens) for _ in range(counts[1])]

        def run() -> tuple[int, ...]:
            found = factors(self._each_alone(compute, partials), self._together(compute, partials))
            return tuple(round(factor * PARTS_PER_MILLION) for factor in found)

        return run

    def _partial(self, num_tokens: int) -> Tensor:
        return torch.empty(num_tokens, self._hidden_size, dtype=self._dtype).zero_()

    def _alone(self, begin: Callable[[], Exchange]) -> int:
        self._agreement.meet()
        began_ns = self._clock_ns()
        begin().wait()
        return self._clock_ns() - began_ns

    def _each_alone(self, compute: Callable[[], None], partials: Sequence[Tensor]) -> tuple[int, int]:
        return self._together(compute, ())[0], self._together(lambda: None, partials)[1]

    def _together(self, compute: Callable[[], None], partials: Sequence[Tensor]) -> tuple[int, int]:
        """Run compute beside exchanges back to back; return when each was done, counted from the common begin."""
        if partials:
            self._agreement.meet()
        began_ns = self._clock_ns()
        exchanges = [self._communicator.all_reduce(partial) for partial in partials]
        with ThreadPoolExecutor(1, thread_name_prefix="profiler") as waiter:
            exchanged = waiter.submit(self._wait, exchanges)
            compute()
            computed_ns = self._clock_ns()
            return computed_ns - began_ns, exchanged.result() - began_ns

    @torch.inference_mode()
    def _wait(self, exchanges: Sequence[Exchange]) -> int:
        for exchange in exchanges:
            exchange.wait()
        return self._clock_ns()
