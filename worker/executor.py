"""Runs windows: every segment in the order given, each batch in its own slot, waiting only where a lane changes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from liger.digest import OrderDigest, token_digest
from liger.domain import BatchKind, Lane, SegmentKind
from liger.schedule import (
    BatchOutcome,
    BatchStart,
    ItemResult,
    Logprob,
    Pattern,
    Segment,
    Step,
    Window,
    WindowOutcome,
    WindowTimings,
)
from worker.communicator.base import Communicator, Exchange
from worker.inputs import BatchInputs, InputBuilder
from worker.outputs import EncodeOutputs
from worker.sampling.sampler import Drawn, Sampler
from worker.segments import Forwards
from worker.sequences import SequenceTable
from worker.shards.shard import Activation, Shard


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """What one batch in flight keeps on a rank between its segments."""

    start: BatchStart
    inputs: BatchInputs
    activation: Activation | None = None
    partial: Tensor | None = None  # what the next exchange sends
    exchange: Exchange | None = None  # under way on the communication lane
    outputs: EncodeOutputs | None = None
    drawn: Drawn | None = None


class Executor:
    """One rank's lanes. All calls come from the one launching thread.

    Args:
        shard: This rank's part of the model.
        communicator: Exchanges with the other ranks.
        forwards: The segments of each kind of batch.
        table: Running sequences.
        inputs: Prepares batches.
        sampler: Draws tokens; None for models that make none.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        communicator: Communicator,
        forwards: Forwards,
        table: SequenceTable,
        inputs: InputBuilder,
        sampler: Sampler | None,
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._shard = shard
        self._communicator = communicator
        self._forwards = forwards
        self._table = table
        self._inputs = inputs
        self._sampler = sampler
        self._clock_ns = clock_ns
        self._slots: dict[int, Slot] = {}  # by batch id
        self._exposed_ns = 0
        self._launch_segment: dict[SegmentKind, Callable[[Slot, Segment], None]] = {
            SegmentKind.EMBED: self._embed,
            SegmentKind.ATTENTION: self._attention,
            SegmentKind.MLP: self._mlp,
            SegmentKind.ALL_REDUCE: self._all_reduce,
            SegmentKind.HEAD: self._head,
            SegmentKind.GATHER: self._gather,
            SegmentKind.SAMPLE: self._sample,
        }

    @torch.inference_mode()
    def run(self, pattern: Pattern, window: Window) -> WindowOutcome:
        """Run one window and return this rank's acknowledgement.

        Raises:
            GroupFailedError: An exchange failed.
            ScheduleRefusedError: The window names sequences that do not run.
        """
        started_ns = self._clock_ns()
        self._exposed_ns = 0
        self._begin(window)
        digest = OrderDigest()
        marks = [self._launch(step, window, digest) for step in pattern.steps]
        done = self._end(pattern, window)
        return WindowOutcome(
            fence=window.fence,
            number=window.number,
            launched_digest=digest.value(),
            sampled_digest=token_digest([one.batch_id for one in done], [one.token_ids for one in done]),
            timings=self._timings(started_ns, pattern, marks, timed=window.timed),
            batches=done if self._communicator.rank == 0 else (),
        )

    def _begin(self, window: Window) -> None:
        for row in window.sequence_ends:
            self._table.end(row)
        for sequence in window.sequence_starts:
            self._table.start(sequence)

    def _launch(self, step: Step, window: Window, digest: OrderDigest) -> tuple[int, int]:
        batch_id = window.batch_ids[step.operand]
        slot = self._slots.get(batch_id) or self._open(batch_id, window)
        began_ns, exposed_ns = self._clock_ns(), self._exposed_ns
        segment = self._forwards[slot.start.kind][step.segment]
        digest.add(batch_id, step)
        self._launch_segment[segment.kind](slot, segment)
        waited_ns = self._exposed_ns - exposed_ns
        return began_ns + waited_ns, self._clock_ns()

    def _open(self, batch_id: int, window: Window) -> Slot:
        start = next(start for start in window.batch_starts if start.batch_id == batch_id)
        slot = Slot(start=start, inputs=self._inputs.build(start.rows))
        self._slots[batch_id] = slot
        return slot

    def _embed(self, slot: Slot, _: Segment) -> None:
        inputs = slot.inputs
        slot.activation = self._shard.embed(inputs.token_ids, inputs.positions, inputs.token_type_ids)

    def _attention(self, slot: Slot, segment: Segment) -> None:
        slot.partial = self._shard.attention(segment.layer, self._settled(slot), slot.inputs.attend)

    def _mlp(self, slot: Slot, segment: Segment) -> None:
        slot.partial = self._shard.mlp(segment.layer, self._settled(slot))

    def _all_reduce(self, slot: Slot, _: Segment) -> None:
        assert slot.partial is not None, "an exchange follows a segment that leaves partial sums"
        slot.exchange, slot.partial = self._communicator.all_reduce(slot.partial), None

    def _head(self, slot: Slot, _: Segment) -> None:
        hidden = self._shard.finish(self._settled(slot))
        inputs = slot.inputs
        if slot.start.kind is BatchKind.ENCODE:
            slot.outputs = EncodeOutputs(self._shard, inputs, hidden)
            slot.partial = slot.outputs.candidates
            return
        assert self._sampler is not None, "a model that makes tokens has a sampler"
        drawing = hidden if inputs.draw_places is None else hidden.index_select(0, inputs.draw_places)
        slot.partial = self._sampler.candidates(self._shard.logits(drawing), inputs.draws)

    def _gather(self, slot: Slot, _: Segment) -> None:
        assert slot.partial is not None, "a gather follows the head"
        slot.exchange, slot.partial = self._communicator.all_gather(slot.partial), None

    def _sample(self, slot: Slot, _: Segment) -> None:
        assert self._sampler is not None, "a model that makes tokens has a sampler"
        slot.drawn = self._sampler.choose(self._wait(slot), slot.inputs.draws)
        rows = slot.inputs.draw_rows
        assert rows is not None, "what is drawn belongs to sequences"
        self._table.put_tokens(rows, torch.tensor(slot.drawn.token_ids, dtype=torch.int64, device=rows.device))

    def _settled(self, slot: Slot) -> Activation:
        """Return the batch's activation with the addends of its last exchange."""
        assert slot.activation is not None, "embed comes first"
        if slot.exchange is not None:
            slot.activation.addends = self._wait(slot)
        return slot.activation

    def _wait(self, slot: Slot) -> tuple[Tensor, ...]:
        assert slot.exchange is not None, "there is an exchange to wait for"
        began_ns = self._clock_ns()
        addends = slot.exchange.wait()
        self._exposed_ns += self._clock_ns() - began_ns
        slot.exchange = None
        return addends

    def _end(self, pattern: Pattern, window: Window) -> tuple[BatchOutcome, ...]:
        """Close the batches whose last segment was in the window, and return what they gave."""
        last = {window.batch_ids[step.operand]: step.segment for step in pattern.steps}
        over = [
            batch_id
            for batch_id, segment in last.items()
            if segment == len(self._forwards[self._slots[batch_id].start.kind]) - 1
        ]
        return tuple(self._close(batch_id) for batch_id in over)

    def _close(self, batch_id: int) -> BatchOutcome:
        slot = self._slots.pop(batch_id)
        token_ids: tuple[int, ...] = ()
        logprobs: tuple[Logprob, ...] = ()
        items: tuple[ItemResult, ...] = ()
        if slot.drawn is not None:
            token_ids, logprobs = slot.drawn.token_ids, slot.drawn.logprobs
        if slot.outputs is not None:
            items = slot.outputs.results(self._wait(slot) if slot.exchange is not None else ())
        return BatchOutcome(batch_id=batch_id, token_ids=token_ids, logprobs=logprobs, items=items)

    def _timings(
        self, started_ns: int, pattern: Pattern, marks: list[tuple[int, int]], *, timed: bool
    ) -> WindowTimings:
        compute_ns = sum(
            end - begin for step, (begin, end) in zip(pattern.steps, marks, strict=True) if step.lane is Lane.COMPUTE
        )
        return WindowTimings(
            started_ns=started_ns,
            ended_ns=self._clock_ns(),
            compute_ns=compute_ns,
            communication_ns=self._exposed_ns,
            exposed_ns=self._exposed_ns,
            step_starts_ns=tuple(begin - started_ns for begin, _ in marks) if timed else (),
            step_ends_ns=tuple(end - started_ns for _, end in marks) if timed else (),
        )
