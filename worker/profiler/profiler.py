"""Gives the one profile of a stage's ranks: from disk if each of them has it there, else measured together."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from statistics import median_low
from typing import Final

import torch

from liger.domain import BatchKind
from liger.errors import GroupFailedError
from liger.profile import ContentionSample, ExchangeChoice, ProfileTable, SegmentSample
from worker.communicator.base import Communicator
from worker.profiler.agreement import Agreement
from worker.profiler.batches import BatchMaker
from worker.profiler.choices import Choice, Choosing, Trial, choice_of, chosen
from worker.profiler.exchanges import PARTS_PER_MILLION, ExchangeBench
from worker.profiler.plan import CoRun, ExchangeSize, ProfilePlan, Shape, WaySize, make_plan
from worker.profiler.store import ProfileStore, table_digest
from worker.profiler.subject import Subject
from worker.profiler.sweep import CellT, Run, Runs, Sweep
from worker.rank import Progress

_SEGMENTS_UNTIL: Final = 0.55  # of the time, with exchanges to follow
_WAYS_UNTIL: Final = 0.65  # where there are several
_EXCHANGES_UNTIL: Final = 0.75
_LEAST_NEWS: Final = 0.05  # share of a phase between two reports

Found = dict[CellT, Runs]
"""What one rank measured of each cell."""
Table = dict[CellT, tuple[int, ...]]
"""What all ranks take as measured of each cell."""


class Profiler:
    """Measures, or remembers.

    The ranks of one stage agree on one table. The stages of a pipeline measure each its own layers (embeddings on the
    first, head and sampling on the last) and their tables differ; the controller takes the first stage's for layers.

    Args:
        store: Profiles of earlier starts.
        hardware: What this rank computes on, for the key.
        limit_s: Time that measuring may take, in seconds; what does not fit is left out.
        progress: Takes what is being done.
        aborted: Ends measuring.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        store: ProfileStore,
        *,
        hardware: str,
        limit_s: float,
        progress: Progress,
        aborted: threading.Event,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._store = store
        self._hardware = hardware
        self._limit_ns = int(limit_s * 1e9)
        self._progress = progress
        self._aborted = aborted
        self._clock_ns = clock_ns

    @torch.inference_mode()
    def profile(self, subject: Subject, *, fresh: bool = False) -> ProfileTable:
        """Return the stage's table, the same on all its ranks.

        Args:
            subject: What is measured.
            fresh: Measures even if all ranks have a table; the same on all.

        Raises:
            GroupFailedError: Another rank is gone, or the epoch ended.
        """
        self._check()
        agreement = Agreement(subject.host)
        key = subject.make_key(agreement.texts(self._hardware))
        known = None if fresh else self._store.find(key)
        are_equal = agreement.are_equal(table_digest(known))  # all take part, whatever they have
        if known is not None and are_equal:
            _choose(subject.communicator, known.exchange_choices, known.activation_bytes)
            return known
        try:
            table = self._measure(subject, agreement, key)
        finally:
            subject.batches.close()
        self._store.keep(table)
        return table

    def _measure(self, subject: Subject, agreement: Agreement, key: str) -> ProfileTable:
        bounds = replace(subject.bounds, num_blocks=agreement.fewest(subject.bounds.num_blocks))
        plan = make_plan(bounds, _ways(subject.communicator))
        self._warm_up(subject, plan)
        sweep = Sweep(agreement, self._clock_ns, self._check)
        activation_bytes = subject.hidden_size * subject.dtype.itemsize
        shapes = _agreed(agreement, self._measure_shapes(sweep, plan, subject.batches), _lower_quartile)
        bench = _bench(subject, agreement)
        trials = _agreed(agreement, self._measure_ways(sweep, plan, subject.batches, bench), _lower_quartile)
        choices = chosen({(way.size, way.communicator): Trial(*row) for way, row in trials.items()})
        if choices:
            bench.choose(_choose(subject.communicator, choices, activation_bytes))
        found = self._sweep(sweep, plan.exchanges, bench.exchange, ("measuring exchanges", _EXCHANGES_UNTIL))
        exchanges = _agreed(agreement, found, _lower_quartile)
        co_runs = _agreed(agreement, self._measure_co_runs(sweep, plan, subject.batches, bench), median_low)
        if choices:
            _choose(subject.communicator, choices, activation_bytes)  # co-runs took one way or the other
        return ProfileTable(
            key=key,
            activation_bytes=activation_bytes,
            segments=(*_shape_samples(shapes, subject.batches), *_exchange_samples(exchanges)),
            contention=_contention_samples(co_runs, activation_bytes),
            exchange_choices=choices,
        )

    def _warm_up(self, subject: Subject, plan: ProfilePlan) -> None:
        """Run a small and a middling batch of each kind where kernels are compiled when they first run.

        That may take longer than all that is measured, and would leave no time for it.
        """
        if not subject.stopwatch.runs_later:
            return
        by_kind = [[shape for shape in plan.shapes if shape.batch is kind] for kind in BatchKind]
        shapes = [shape for of_kind in by_kind if of_kind for shape in (of_kind[0], of_kind[len(of_kind) // 2])]
        for place, shape in enumerate(shapes):
            self._check()
            self._progress("warming up", place / len(shapes))
            subject.batches.make(shape)

    def _measure_shapes(self, sweep: Sweep, plan: ProfilePlan, batches: BatchMaker) -> Found[Shape]:
        def prepare(shape: Shape) -> Run:
            batch = batches.make(shape)
            return lambda: tuple(batch.run().values())

        share = _SEGMENTS_UNTIL if plan.exchanges else 1.0
        return self._sweep(sweep, plan.shapes, prepare, ("measuring segments", share))

    def _measure_ways(
        self, sweep: Sweep, plan: ProfilePlan, batches: BatchMaker, bench: ExchangeBench
    ) -> Found[WaySize]:
        if not plan.ways:
            return {}

        def prepare(cell: WaySize) -> Run:
            return bench.trial(cell.communicator, batches.make(cell.shape), cell.size)

        return self._sweep(sweep, plan.ways, prepare, ("comparing ways to exchange", _WAYS_UNTIL))

    def _measure_co_runs(
        self, sweep: Sweep, plan: ProfilePlan, batches: BatchMaker, bench: ExchangeBench
    ) -> Found[CoRun]:
        def prepare(cell: CoRun) -> Run:
            return bench.co_run(batches.make(cell.shape), cell.compute, cell.exchange_tokens)

        share = min(1.0, 2 * sweep.now_ns / self._limit_ns)  # as long as all before: less matters of small models
        return self._sweep(sweep, plan.co_runs, prepare, ("measuring co-runs", share))

    def _sweep(
        self, sweep: Sweep, cells: tuple[CellT, ...], prepare: Callable[[CellT], Run], phase: tuple[str, float]
    ) -> Found[CellT]:
        """Measure the cells of a phase, which has a name and ends with a share of the time."""
        name, share = phase
        report = _sparse(lambda done: self._progress(name, done))
        return sweep.measure(cells, prepare, until_ns=int(self._limit_ns * share), report=report)

    def _check(self) -> None:
        if self._aborted.is_set():
            raise GroupFailedError("measuring was given up: the group's epoch ended")


def _bench(subject: Subject, agreement: Agreement) -> ExchangeBench:
    return ExchangeBench(
        subject.communicator,
        agreement,
        hidden_size=subject.hidden_size,
        dtype=subject.dtype,
        device=subject.device,
        stopwatch=subject.stopwatch,
        num_slots=subject.num_slots,
    )


def _ways(communicator: Communicator) -> tuple[str, ...]:
    """Return the names of the ways to exchange, if there are several."""
    return communicator.names if isinstance(communicator, Choosing) else ()


def _choose(communicator: Communicator, choices: Sequence[ExchangeChoice], activation_bytes: int) -> Choice:
    """Let a communicator take the ways that are chosen, if it has several and they were compared; return the choice."""
    choice = choice_of(choices, activation_bytes, next(iter(_ways(communicator)), ""))
    if choices and isinstance(communicator, Choosing):
        communicator.set_choice(choice)
    return choice


def _agreed(agreement: Agreement, found: Found[CellT], choose: Callable[[list[int]], int]) -> Table[CellT]:
    """Return the largest of all ranks' numbers at each place, each chosen among those of a cell's runs."""
    if not found:
        return {}
    chosen = {cell: tuple(choose(list(numbers)) for numbers in zip(*runs, strict=True)) for cell, runs in found.items()}
    largest = iter(agreement.slowest([number for numbers in chosen.values() for number in numbers]))
    return {cell: tuple(islice(largest, len(numbers))) for cell, numbers in chosen.items()}


def _lower_quartile(numbers: list[int]) -> int:
    """Return what a run takes that nothing disturbs: other work on the machine makes runs longer, never shorter."""
    return sorted(numbers)[len(numbers) // 4]


def _shape_samples(table: Table[Shape], batches: BatchMaker) -> list[SegmentSample]:
    return [
        SegmentSample(
            batch=shape.batch, segment=segment, num_tokens=shape.size, context=shape.context, duration_ns=duration_ns
        )
        for shape, row in table.items()
        for segment, duration_ns in zip(batches.segments(shape.batch), row, strict=True)
    ]


def _exchange_samples(table: Table[ExchangeSize]) -> list[SegmentSample]:
    return [
        SegmentSample(
            batch=None,
            segment=cell.segment,
            num_tokens=cell.size,
            context=0,
            duration_ns=duration_ns,
            held_ns=min(duration_ns, *held_ns) if held_ns else 0,
        )
        for cell, (duration_ns, *held_ns) in table.items()
    ]


def _contention_samples(table: Table[CoRun], activation_bytes: int) -> tuple[ContentionSample, ...]:
    return tuple(
        ContentionSample(
            compute=cell.compute,
            compute_tokens=cell.shape.size,
            communication_bytes=cell.exchange_tokens * activation_bytes,
            compute_factor=row[0] / PARTS_PER_MILLION,
            communication_factor=row[1] / PARTS_PER_MILLION,
        )
        for cell, row in table.items()
    )


def _sparse(report: Callable[[float], None]) -> Callable[[float], None]:
    """Return what reports the first share, the whole, and those that are news."""
    last = -1.0

    def report_news(share: float) -> None:
        nonlocal last
        if share - last >= _LEAST_NEWS or share >= 1.0:
            last = share
            report(share)

    return report_news
