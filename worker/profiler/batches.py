"""Runs the segments of made-up batches, one of each, and times them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor

from liger.domain import BatchKind, ClassifyOutput, EncodeOutput, PoolOutput, Sampling, SegmentKind
from liger.schedule import BatchRows, BlockAppends, DecodeRows, EncodeRows, PrefillRows, SequenceStart
from worker.inputs import BatchInputs, Claim, InputBuilder
from worker.outputs import EncodeOutputs
from worker.profiler.plan import Shape, block_tables
from worker.sampling.sampler import Candidates, Sampler
from worker.sampling.transfers import Stage
from worker.sequences import SequenceTable
from worker.shards.shard import Activation, Shard
from worker.shards.spec import HeadKind
from worker.timing.base import Mark, Stopwatch
from worker.timing.budget import LaunchBudget

ResultT = TypeVar("ResultT")

_SLOT: Final = 0  # whose memory batches are in
_MOST_TURNS: Final = 8  # so many layers' weights are more than a device's cache holds
_TURN_TOKENS: Final = 4096  # in all turns together; of large batches one turn takes long enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """How batches get their tensors."""

    table: SequenceTable  # of the profiler's own: the rank's is not touched
    builder: InputBuilder  # with that table
    bring: Stage  # brings other numbers to the device
    begin_run: Callable[[], None]  # called before each run, when the device has done with those before
    end_runs: Callable[[], None]  # called after the last


class BatchMaker:
    """Makes batches of given shapes.

    Args:
        shard: This rank's.
        inputs: Of all batches; only the one made last is run.
        sampler: None for models that make no tokens.
        block_size: Tokens of a KV block; 1 for models that keep none.
        num_parts: Ranks whose candidates are drawn from.
        stopwatch: Times segments.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        inputs: Inputs,
        sampler: Sampler | None,
        block_size: int,
        num_parts: int,
        stopwatch: Stopwatch,
    ) -> None:
        self._shard = shard
        self._inputs = inputs
        self._sampler = sampler
        self._block_size = block_size
        self._num_parts = num_parts
        self._stopwatch = stopwatch

    def segments(self, kind: BatchKind) -> tuple[SegmentKind, ...]:
        """Return what `TimedBatch.run` times of a kind of batch, in order."""
        first = (SegmentKind.EMBED,) if self._shard.layers.start == 0 else ()
        last = (SegmentKind.HEAD,) if self._shard.layers.stop == self._shard.spec.num_layers else ()
        draws = (SegmentKind.SAMPLE,) if last and kind is not BatchKind.ENCODE else ()
        return (*first, SegmentKind.ATTENTION, SegmentKind.MLP, *last, *draws)

    def make(self, shape: Shape) -> "TimedBatch":
        """Return a batch that is ready to run."""
        for row, length in enumerate(shape.lengths if shape.batch is not BatchKind.ENCODE else ()):
            num_tokens = shape.context + length
            start = SequenceStart(row=row, sampling=Sampling(), sample=0, num_prompt_tokens=num_tokens)
            self._inputs.table.start(start)
        batch = TimedBatch(
            shard=self._shard,
            inputs=self._inputs,
            claim=self._inputs.builder.claim(self._rows(shape)),
            sampler=self._sampler if shape.batch is not BatchKind.ENCODE else None,
            num_parts=self._num_parts,
            stopwatch=self._stopwatch,
        )
        if self._stopwatch.runs_later:
            batch.run(is_first=True)  # compiles kernels and takes memory, which would hold up launching
        return batch

    def close(self) -> None:
        """Give back what the host took for runs; there are no more."""
        self._inputs.end_runs()

    def _rows(self, shape: Shape) -> BatchRows:
        vocab_size, num_rows = self._shard.spec.vocab_size, len(shape.lengths)
        token_ids = tuple(7 * place % vocab_size for place in range(shape.size))
        if shape.batch is BatchKind.ENCODE:
            outputs = (_output(self._shard),) * num_rows
            return EncodeRows(num_tokens=shape.lengths, token_ids=token_ids, token_type_ids=(), outputs=outputs)
        rows, starts = tuple(range(num_rows)), (shape.context,) * num_rows
        tables = block_tables(shape, self._block_size)
        blocks = tuple(block for table in tables for block in table)
        appends = BlockAppends(rows=rows, counts=tuple(map(len, tables)), blocks=blocks)
        if shape.batch is BatchKind.DECODE:
            return DecodeRows(rows=rows, positions=starts, appends=appends)
        return PrefillRows(
            rows=rows,
            num_tokens=shape.lengths,
            starts=starts,
            token_ids=token_ids,
            samples=(True,) * num_rows,
            appends=appends,
        )


class TimedBatch:
    """One batch on one rank; made by `BatchMaker`.

    On the CPU the layer in the middle stands for all. Where work runs later, segments are run several times on layers
    in turn, whose weights are as little in the cache as in service, and behind a wait: see `worker.timing.device`.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        inputs: Inputs,
        claim: Claim,
        sampler: Sampler | None,
        num_parts: int,
        stopwatch: Stopwatch,
    ) -> None:
        self._shard = shard
        self._table = inputs.table
        self._builder = inputs.builder
        self._bring = inputs.bring
        self._begin_run = inputs.begin_run
        self._begin_run()
        self._claim = claim
        self._inputs = self._prepare()
        self._sampler = sampler
        self._num_parts = num_parts
        self._stopwatch = stopwatch
        positions = self._inputs.positions
        size = (len(positions), shard.spec.hidden_size)
        addend = torch.empty(size, dtype=inputs.builder.dtype, device=positions.device)
        # Written, so that no page is new to the first reader; with noise on a GPU, which multiplies zeros faster.
        self._addend = addend.normal_() if stopwatch.runs_later else addend.zero_()
        middle = shard.layers[len(shard.layers) // 2]
        self._layers = shard.layers if stopwatch.runs_later else range(middle, middle + 1)
        self._num_turns = turns(len(addend)) if stopwatch.runs_later else 1
        self._budget, self._end_budget = LaunchBudget(3 * self._num_turns), LaunchBudget(2)

    def run(self, *, is_first: bool = False) -> dict[SegmentKind, int]:
        """Run one of each segment that this rank's stage has; return their nanoseconds, in order."""
        shard, watch, count = self._shard, self._stopwatch, self._num_turns
        self._begin_run()
        if watch.runs_later:  # what the host prepares for attention may wait for the device, and must not be held
            self._inputs = self._prepare()
        watch.hold(self._budget.expected_ns)
        act, embed = self._timed(lambda _: self.begin(), count)
        _, attention = self._timed(lambda turn: self.compute(SegmentKind.ATTENTION, act, turn), count)
        partial, mlp = self._timed(lambda turn: self.compute(SegmentKind.MLP, act, turn), count)
        launched_ns = watch.settle()
        if not is_first:
            self._budget.learn(launched_ns)
        timed = {SegmentKind.ATTENTION: attention, SegmentKind.MLP: mlp}
        if shard.layers.start == 0:
            timed = {SegmentKind.EMBED: embed, **timed}
        if shard.layers.stop == shard.spec.num_layers:
            act.addends = (partial,)
            timed |= self._run_ends(act)
        return {kind: watch.between_ns(began, ended) // num for kind, (began, ended, num) in timed.items()}

    def _run_ends(self, act: Activation) -> "_Timed":
        """Run the segments after the last layer, whose draws may need the host."""
        self._stopwatch.hold(self._end_budget.expected_ns)
        candidates, head = self._timed(lambda _: self._head(act))
        timed = {SegmentKind.HEAD: head}
        if candidates is not None:
            _, timed[SegmentKind.SAMPLE] = self._timed(lambda _: self._sample(candidates))
        self._stopwatch.settle()
        return timed

    def begin(self) -> Activation:
        """Return the batch's activation before its first layer here.

        As in a window, embedding prepares the batch's inputs too, unless the host is ahead of the device anyway. The
        layer goes on with those that it has used before, as it stands for layers in the middle.
        """
        if self._shard.layers.start != 0:
            return self._shard.resume(self._addend.clone(), self._inputs.positions)
        inputs = self._inputs if self._stopwatch.runs_later else self._prepare()
        token_ids = inputs.token_ids
        if token_ids is None:
            assert inputs.table_rows is not None, "what was drawn belongs to sequences"
            token_ids = self._table.take_tokens(inputs.table_rows)
        return self._shard.embed(token_ids, inputs.positions, inputs.token_type_ids)

    def compute(self, kind: SegmentKind, act: Activation, turn: int = 0) -> Tensor:
        """Run attention or MLP on what an exchange would have given; may be called again and again, with turns."""
        act.addends = (self._addend,)
        layer = self._layers[turn % len(self._layers)]
        if kind is SegmentKind.ATTENTION:
            return self._shard.attention(layer, act, self._inputs.attend)
        return self._shard.mlp(layer, act)

    def _head(self, act: Activation) -> Candidates | None:
        inputs = self._inputs
        hidden = self._shard.finish(act)[: inputs.num_tokens]
        if self._sampler is None:
            EncodeOutputs(self._shard, inputs, hidden, self._bring)
            return None
        drawing = hidden if inputs.draw_places is None else hidden.index_select(0, inputs.draw_places)
        return self._sampler.candidates(self._shard.logits(drawing), inputs.draws)

    def _sample(self, candidates: Candidates) -> None:
        rows = self._inputs.draw_rows
        assert rows is not None, "only batches that draw come here"
        drawn = candidates.choose(self._from_all(candidates.payload), self._from_all)
        self._table.put_tokens(rows, drawn.tokens)

    def _prepare(self) -> BatchInputs:
        return self._builder.prepare(self._claim, _SLOT)

    def _from_all(self, part: Tensor) -> tuple[Tensor, ...]:
        """Return what a gather would bring if all ranks sent the same."""
        return (part,) * self._num_parts

    def _timed(self, work: Callable[[int], ResultT], count: int = 1) -> tuple[ResultT, "_Span"]:
        """Return the result of the last of some turns, and when the first began and the last ended."""
        began = self._stopwatch.mark()
        result = work(0)
        for turn in range(1, count):
            result = work(turn)
        return result, (began, self._stopwatch.mark(), count)


_Span = tuple[Mark, Mark, int]  # began, ended, turns
_Timed = dict[SegmentKind, _Span]


def turns(num_tokens: int) -> int:
    """Return how many times in a row a segment of so many tokens is run where work runs later."""
    return max(1, min(_MOST_TURNS, _TURN_TOKENS // num_tokens))


def _output(shard: Shard) -> EncodeOutput:
    spec = shard.spec
    if spec.head is HeadKind.CLASSIFIER:
        return ClassifyOutput()
    return PoolOutput(pooling=spec.default_pooling, normalize=spec.default_normalize)
