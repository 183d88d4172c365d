"""Runs windows: every segment in the order given, each batch in its own slot, waiting only where a lane changes."""

from collections.abc import Sequence

import torch

from liger.digest import order_digest, token_digest
from liger.schedule import BatchOutcome, Pattern, Segment, Window, WindowOutcome
from worker.devices.base import Device
from worker.inputs import InputBuilder
from worker.launching import LaunchAll
from worker.rank import JoinPlan, ReadOutcome
from worker.recorder import ReadTimings, Recorder
from worker.runner import ReadBatch, SegmentRunner
from worker.segments import Forwards
from worker.sequences import SequenceTable
from worker.slots import Slot, Slots, Work
from worker.templates import Planned, Template, Templates


class Executor:
    """One rank's lanes. All calls come from the one launching thread.

    Args:
        plan: This rank's place in its group.
        forwards: The segments of each kind of batch, of all stages.
        table: Running sequences.
        inputs: Prepares batches.
        runner: Runs single segments.
        device: What they run on.
        recorder: Times them.
        launch_all: How the steps of a window are launched.
    """

    def __init__(
        self,
        *,
        plan: JoinPlan,
        forwards: Forwards,
        table: SequenceTable,
        inputs: InputBuilder,
        runner: SegmentRunner,
        device: Device,
        recorder: Recorder,
        launch_all: LaunchAll,
    ) -> None:
        self._plan = plan
        self._forwards = forwards
        self._ends = {kind: _end_of_stage(segments, plan.pp_stage) for kind, segments in forwards.items()}
        self._gives_results = plan.pp_stage == plan.pp_size - 1
        self._table = table
        self._inputs = inputs
        self._runner = runner
        self._device = device
        self._recorder = recorder
        self._launch_all = launch_all
        self._slots = Slots()
        self._templates = Templates(plan, forwards)

    @property
    def num_graphs(self) -> int:
        """How many captured graphs are held."""
        return self._launch_all.num_graphs

    @torch.inference_mode()
    def run(self, pattern: Pattern, window: Window) -> ReadOutcome:
        """Launch one window and return what tells this rank's acknowledgement.

        Raises:
            GroupFailedError: An exchange failed.
            ScheduleRefusedError: The window names sequences that do not run.
        """
        self._device.begin_window()
        self._runner.begin_window(is_timed=window.timed, num_batches=len(window.batch_ids))
        self._recorder.begin(window)
        slots = self._begin(window)
        template = self._templates.find(pattern, tuple((slot.start.kind, slot.position) for slot in slots))
        for run in template.runs:
            self._launch_all(run, slots, self._launch)
        done = self._end(template, slots)
        return self._reader(window, template.digest, done, self._recorder.end(template.num_steps))

    def _begin(self, window: Window) -> list[Slot]:
        """Bring the sequence table up to date, open slots, and return those of the window's batches."""
        for row in window.sequence_ends:
            self._table.end(row)
        for sequence in window.sequence_starts:
            self._table.start(sequence)
        for start in window.batch_starts:
            self._slots.open(start, self._inputs.claim(start.rows))
        return [self._slots.of(batch_id) for batch_id in window.batch_ids]

    def _launch(self, planned: Planned, slot: Slot) -> None:
        if not planned.is_own:
            self._runner.expect(slot, planned.segment)
            return
        self._recorder.begin_step()
        exchange = self._runner.launch(slot, planned.segment, planned.step.piece)
        self._recorder.end_step(planned.place, planned.step, exchange)

    def _end(self, template: Template, slots: list[Slot]) -> list[ReadBatch]:
        """Advance the batches, close those whose last segment here was in the window, fetch what they gave."""
        done: list[ReadBatch] = []
        for operand, count in template.advances:
            slot, kind = slots[operand], slots[operand].start.kind
            is_over = slot.position < self._ends[kind] <= slot.position + count
            slot.position += count
            if is_over:
                done += self._close(operand, slot)
            if slot.position == len(self._forwards[kind]):
                self._slots.close(slot.start.batch_id)
        return done

    def _close(self, operand: int, slot: Slot) -> list[ReadBatch]:
        """Let go of what a batch holds here; fetch what it gave, if it ends on this stage."""
        self._recorder.begin_step()
        results = [self._runner.results(slot)] if self._gives_results else []
        self._recorder.end_batch(operand)
        slot.work = Work()
        return results

    def _reader(
        self, window: Window, launched: int, done: Sequence[ReadBatch], read_timings: ReadTimings
    ) -> ReadOutcome:
        fence = self._device.end_window()
        is_payload = self._gives_results and self._plan.tp_rank == 0

        @torch.inference_mode()
        def read() -> WindowOutcome:
            fence.wait()
            batches = tuple(read_batch() for read_batch in done)
            timings = read_timings()
            fence.release()
            return WindowOutcome(
                fence=window.fence,
                number=window.number,
                launched_digest=order_digest(launched, window.batch_ids),
                sampled_digest=_sampled_digest(batches) if self._gives_results else 0,
                timings=timings,
                batches=batches if is_payload else (),
            )

        return read


def _end_of_stage(segments: tuple[Segment, ...], stage: int) -> int:
    """Return the place after a stage's last segment."""
    return max(place for place, segment in enumerate(segments) if segment.stage == stage) + 1


def _sampled_digest(done: tuple[BatchOutcome, ...]) -> int:
    return token_digest([one.batch_id for one in done], [one.token_ids for one in done])
