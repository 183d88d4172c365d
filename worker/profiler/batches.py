"""Runs the segments of made-up batches, one of each, and times them."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from liger.domain import BatchKind, ClassifyOutput, EncodeOutput, PoolOutput, Sampling, SegmentKind
from liger.schedule import BatchRows, BlockAppends, DecodeRows, EncodeRows, PrefillRows, SequenceStart
from worker.inputs import Claim, InputBuilder
from worker.kv_cache import KvCache
from worker.outputs import EncodeOutputs
from worker.profiler.plan import Shape, block_tables
from worker.sampling.sampler import Candidates, Sampler
from worker.sequences import SequenceTable
from worker.shards.shard import Activation, Shard
from worker.shards.spec import HeadKind

ResultT = TypeVar("ResultT")


class BatchMaker:
    """Makes batches of given shapes, with sequences in a table of their own: the rank's is not touched.

    Args:
        shard: This rank's.
        cache: Keys and values, which no sequence uses now; None for models that keep none.
        sampler: None for models that make no tokens.
        num_rows: Sequences at once, at most.
        num_parts: Ranks whose candidates are drawn from.
        dtype: Of activations.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        cache: KvCache | None,
        sampler: Sampler | None,
        num_rows: int,
        num_parts: int,
        dtype: torch.dtype,
        clock_ns: Callable[[], int],
    ) -> None:
        self._shard = shard
        self._block_size = cache.block_size if cache else 1
        self._sampler = sampler
        self._num_rows = num_rows
        self._num_parts = num_parts
        self._dtype = dtype
        self._clock_ns = clock_ns
        self._table = SequenceTable(num_rows)
        self._inputs = InputBuilder(spec=shard.spec, table=self._table, cache=cache, dtype=dtype, device="cpu")

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
            self._table.start(SequenceStart(row=row, sampling=Sampling(), sample=0, num_prompt_tokens=num_tokens))
        return TimedBatch(
            shard=self._shard,
            inputs=self._inputs,
            claim=self._inputs.claim(self._rows(shape)),
            sampler=self._sampler if shape.batch is not BatchKind.ENCODE else None,
            table=self._table,
            num_parts=self._num_parts,
            dtype=self._dtype,
            clock_ns=self._clock_ns,
        )

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
    """One batch on one rank; made by `BatchMaker`. The layer in the middle stands for all."""

    def __init__(
        self,
        *,
        shard: Shard,
        inputs: InputBuilder,
        claim: Claim,
        sampler: Sampler | None,
        table: SequenceTable,
        num_parts: int,
        dtype: torch.dtype,
        clock_ns: Callable[[], int],
    ) -> None:
        self._shard = shard
        self._builder = inputs
        self._claim = claim
        self._inputs = inputs.prepare(claim)
        self._sampler = sampler
        self._table = table
        self._num_parts = num_parts
        self._clock_ns = clock_ns
        self._layer = shard.layers[len(shard.layers) // 2]
        size = (len(self._inputs.positions), shard.spec.hidden_size)
        self._addend = torch.empty(size, dtype=dtype).zero_()  # written, so that no page is new to the first reader

    def run(self) -> dict[SegmentKind, int]:
        """Run one of each segment that this rank's stage has; return their nanoseconds, in order."""
        shard = self._shard
        spans: dict[SegmentKind, int] = {}
        act, nanoseconds = self._timed(self.begin)
        if shard.layers.start == 0:
            spans[SegmentKind.EMBED] = nanoseconds
        partial, spans[SegmentKind.ATTENTION] = self._timed(lambda: self.compute(SegmentKind.ATTENTION, act))
        partial, spans[SegmentKind.MLP] = self._timed(lambda: self.compute(SegmentKind.MLP, act))
        if shard.layers.stop == shard.spec.num_layers:
            act.addends = (partial,)
            candidates, spans[SegmentKind.HEAD] = self._timed(lambda: self._head(act))
            if candidates is not None:
                _, spans[SegmentKind.SAMPLE] = self._timed(lambda: self._sample(candidates))
        return spans

    def begin(self) -> Activation:
        """Return the batch's activation before its first layer here.

        As in a window, embedding prepares the batch's inputs too. The layer goes on with those that it has used before,
        as it stands for layers in the middle.
        """
        if self._shard.layers.start != 0:
            return self._shard.resume(self._addend.clone(), self._inputs.positions)
        inputs = self._builder.prepare(self._claim)
        return self._shard.embed(inputs.token_ids, inputs.positions, inputs.token_type_ids)

    def compute(self, kind: SegmentKind, act: Activation) -> Tensor:
        """Run attention or MLP on what an exchange would have given; may be called again and again."""
        act.addends = (self._addend,)
        if kind is SegmentKind.ATTENTION:
            return self._shard.attention(self._layer, act, self._inputs.attend)
        return self._shard.mlp(self._layer, act)

    def _head(self, act: Activation) -> Candidates | None:
        inputs, hidden = self._inputs, self._shard.finish(act)
        if self._sampler is None:
            EncodeOutputs(self._shard, inputs, hidden)
            return None
        drawing = hidden if inputs.draw_places is None else hidden.index_select(0, inputs.draw_places)
        return self._sampler.candidates(self._shard.logits(drawing), inputs.draws)

    def _sample(self, candidates: Candidates) -> None:
        rows = self._inputs.draw_rows
        assert rows is not None, "only batches that draw come here"
        drawn = candidates.choose(self._from_all(candidates.payload), self._from_all)
        self._table.put_tokens(rows, torch.tensor(drawn.token_ids, dtype=torch.int64))

    def _from_all(self, part: Tensor) -> tuple[Tensor, ...]:
        """Return what a gather would bring if all ranks sent the same."""
        return (part,) * self._num_parts

    def _timed(self, work: Callable[[], ResultT]) -> tuple[ResultT, int]:
        began_ns = self._clock_ns()
        result = work()
        return result, self._clock_ns() - began_ns


def _output(shard: Shard) -> EncodeOutput:
    spec = shard.spec
    if spec.head is HeadKind.CLASSIFIER:
        return ClassifyOutput()
    return PoolOutput(pooling=spec.default_pooling, normalize=spec.default_normalize)
