"""Runs windows: every segment in the order given, each batch in its own slot, waiting only where a lane changes."""

import time
from collections.abc import Callable

import torch

from liger.digest import LaunchDigest, order_digest, takes_part, token_digest
from liger.domain import SegmentKind
from liger.schedule import BatchOutcome, Pattern, Segment, Step, Window, WindowOutcome
from worker.inputs import InputBuilder
from worker.rank import JoinPlan
from worker.recorder import Recorder
from worker.runner import SegmentRunner
from worker.segments import Forwards
from worker.sequences import SequenceTable
from worker.slots import Slot, Slots, Work


class Executor:
    """One rank's lanes. All calls come from the one launching thread.

    Args:
        plan: This rank's place in its group.
        forwards: The segments of each kind of batch, of all stages.
        table: Running sequences.
        inputs: Prepares batches.
        runner: Runs single segments.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        plan: JoinPlan,
        forwards: Forwards,
        table: SequenceTable,
        inputs: InputBuilder,
        runner: SegmentRunner,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._plan = plan
        self._forwards = forwards
        self._ends = {kind: _end_of_stage(segments, plan.pp_stage) for kind, segments in forwards.items()}
        self._gives_results = plan.pp_stage == plan.pp_size - 1
        self._table = table
        self._inputs = inputs
        self._runner = runner
        self._clock_ns = clock_ns
        self._recorder = Recorder(clock_ns)
        self._slots = Slots()

    @torch.inference_mode()
    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        """Run one window and return this rank's acknowledgement.

        Raises:
            GroupFailedError: An exchange failed.
            ScheduleRefusedError: The window names sequences that do not run.
        """
        self._recorder.begin(window)
        slots = self._begin(window)
        digest = LaunchDigest()
        for place, step in enumerate(pattern.steps):
            slot = slots[step.operand]
            segment = self._forwards[slot.start.kind][slot.position + step.segment]
            if takes_part(step, self._plan.rank):
                digest.add(step)
                self._launch(place, step, slot, segment)
            elif segment.kind is SegmentKind.SEND and segment.peer == self._plan.pp_stage:
                self._runner.expect(slot, segment)
        done = self._end(pattern, slots)
        is_payload = self._gives_results and self._plan.tp_rank == 0
        return WindowOutcome(
            fence=window.fence,
            number=window.number,
            launched_digest=order_digest(digest.value(), window.batch_ids),
            sampled_digest=_sampled_digest(done) if self._gives_results else 0,
            timings=self._recorder.end(),
            batches=done if is_payload else (),
        )

    def _begin(self, window: Window) -> list[Slot]:
        """Bring the sequence table up to date, open slots, and return those of the window's batches."""
        for row in window.sequence_ends:
            self._table.end(row)
        for sequence in window.sequence_starts:
            self._table.start(sequence)
        for start in window.batch_starts:
            self._slots.open(start, self._inputs.claim(start.rows))
        return [self._slots.of(batch_id) for batch_id in window.batch_ids]

    def _launch(self, place: int, step: Step, slot: Slot, segment: Segment) -> None:
        runner, recorder = self._runner, self._recorder
        began_ns, waited_ns = self._clock_ns(), runner.waited_ns
        exchange = runner.launch(slot, segment, step.piece)
        waited_ns = runner.waited_ns - waited_ns
        recorder.add_wait(step.operand, waited_ns)
        if exchange is None:
            recorder.add_compute(place, step, began_ns + waited_ns)
        else:
            recorder.add_exchange(place, began_ns + waited_ns, exchange)

    def _end(self, pattern: Pattern, slots: list[Slot]) -> tuple[BatchOutcome, ...]:
        """Advance the batches, close those whose last segment here was in the window, return what they gave."""
        counts = {step.operand: step.segment + 1 for step in pattern.steps}
        done = []
        for operand, count in sorted(counts.items()):
            slot, kind = slots[operand], slots[operand].start.kind
            is_over = slot.position < self._ends[kind] <= slot.position + count
            slot.position += count
            if is_over:
                done += self._close(operand, slot)
            if slot.position == len(self._forwards[kind]):
                self._slots.close(slot.start.batch_id)
        return tuple(done)

    def _close(self, operand: int, slot: Slot) -> list[BatchOutcome]:
        """Let go of what a batch holds here; return what it gave, if it ends on this stage."""
        waited_ns = self._runner.waited_ns
        outcomes = [self._runner.results(slot)] if self._gives_results else []
        self._recorder.add_wait(operand, self._runner.waited_ns - waited_ns)
        slot.work = Work()
        return outcomes


def _end_of_stage(segments: tuple[Segment, ...], stage: int) -> int:
    """Return the place after a stage's last segment."""
    return max(place for place, segment in enumerate(segments) if segment.stage == stage) + 1


def _sampled_digest(done: tuple[BatchOutcome, ...]) -> int:
    return token_digest([one.batch_id for one in done], [one.token_ids for one in done])
