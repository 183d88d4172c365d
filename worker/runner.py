"""Runs single segments of batches: compute at once, exchanges in the background, waits where a lane changes."""

from collections.abc import Callable

import torch
from torch import Tensor

from liger.domain import BatchKind, SegmentKind
from liger.schedule import BatchOutcome, ItemResult, Logprob, Piece, Segment
from worker.communicator.base import Communicator, Exchange, StageLinks
from worker.communicator.local import DoneExchange
from worker.feedback import Feedback
from worker.inputs import BatchInputs, InputBuilder
from worker.outputs import EncodeOutputs, PromptOutputs
from worker.sampling.draw import count_drawn
from worker.sampling.sampler import Sampler
from worker.segments import is_feedback
from worker.sequences import SequenceTable
from worker.shards.shard import Activation, Shard
from worker.slots import Slot

Launch = Callable[[Slot, Segment, Piece | None], Exchange | None]


class SegmentRunner:
    """One rank's segments.

    Args:
        shard: This rank's part of the model.
        communicator: Exchanges with the ranks of its stage.
        links: Exchanges with other stages.
        table: Running sequences.
        inputs: Prepares batches.
        sampler: Draws tokens; None where none are drawn.
        clock_ns: Monotonic nanoseconds.
    """

    def __init__(
        self,
        *,
        shard: Shard,
        communicator: Communicator,
        links: StageLinks,
        table: SequenceTable,
        inputs: InputBuilder,
        sampler: Sampler | None,
        clock_ns: Callable[[], int],
    ) -> None:
        self.waited_ns = 0  # for exchanges, in all
        self._shard = shard
        self._communicator = communicator
        self._links = links
        self._table = table
        self._inputs = inputs
        self._sampler = sampler
        self._clock_ns = clock_ns
        self._feedback = Feedback(table, self._wait)
        self._launches: dict[SegmentKind, Launch] = {
            SegmentKind.EMBED: self._embed,
            SegmentKind.ATTENTION: self._attention,
            SegmentKind.MLP: self._mlp,
            SegmentKind.ALL_REDUCE: self._all_reduce,
            SegmentKind.HEAD: self._head,
            SegmentKind.GATHER: self._gather,
            SegmentKind.SAMPLE: self._sample,
            SegmentKind.SEND: self._send,
            SegmentKind.RECEIVE: self._receive,
        }

    def launch(self, slot: Slot, segment: Segment, piece: Piece | None) -> Exchange | None:
        """Run a segment that computes, or begin and return an exchange.

        Raises:
            GroupFailedError: An exchange failed.
        """
        return self._launches[segment.kind](slot, segment, piece)

    def expect(self, slot: Slot, send: Segment) -> None:
        """Begin to receive what another stage sends to this one.

        At the send, as all ranks know their order; the receive segments may come in another.
        """
        if is_feedback(send):
            buffer = torch.empty(len(slot.claim.draws), dtype=torch.int64)
        else:
            buffer = self._inputs.new_residual(slot.claim)
        slot.work.arrival = self._links.receive(buffer, send.stage)

    def results(self, slot: Slot) -> BatchOutcome:
        """Return what a batch gave, after its last segment here."""
        work = slot.work
        token_ids: tuple[int, ...] = ()
        logprobs: tuple[Logprob, ...] = ()
        items: tuple[ItemResult, ...] = ()
        if work.drawn is not None:
            token_ids, logprobs = work.drawn.token_ids, work.drawn.logprobs
        if work.outputs is not None:
            items = work.outputs.results(self._wait(work.exchanges.pop()) if work.outputs.needs_candidates else ())
        return BatchOutcome(
            batch_id=slot.start.batch_id,
            token_ids=token_ids,
            logprobs=logprobs,
            items=items,
            prompt_logprobs=work.prompt_logprobs,
        )

    def _embed(self, slot: Slot, _: Segment, __: Piece | None) -> None:
        if slot.start.kind is BatchKind.DECODE:
            self._feedback.settle(slot.claim.draw_rows)
        inputs = self._prepared(slot)
        slot.work.activation = self._shard.embed(inputs.token_ids, inputs.positions, inputs.token_type_ids)

    def _attention(self, slot: Slot, segment: Segment, _: Piece | None) -> None:
        settled = self._settled(slot)
        slot.work.partial = self._shard.attention(segment.layer, settled, self._prepared(slot).attend)

    def _mlp(self, slot: Slot, segment: Segment, piece: Piece | None) -> None:
        work = slot.work
        if piece is None:
            work.partial = self._shard.mlp(segment.layer, self._settled(slot))
            return
        if piece.index == 0:
            work.mlp_input = self._shard.mlp_input(segment.layer, self._settled(slot))
            work.partial = torch.empty_like(work.mlp_input)
        assert work.mlp_input is not None and work.partial is not None, "pieces come in order"  # noqa: PT018 - one bug
        rows = rows_of_piece(piece, len(work.partial))
        if rows.start < rows.stop:
            work.partial[rows] = self._shard.mlp_rows(segment.layer, work.mlp_input[rows])
        if piece.index + 1 == piece.count:
            work.mlp_input = None

    def _all_reduce(self, slot: Slot, _: Segment, piece: Piece | None) -> Exchange:
        work = slot.work
        assert work.partial is not None, "an exchange follows a segment that leaves partial sums"
        part = work.partial if piece is None else work.partial[rows_of_piece(piece, len(work.partial))]
        exchange = self._communicator.all_reduce(part) if len(part) else DoneExchange()
        work.exchanges.append(exchange)
        return exchange

    def _head(self, slot: Slot, _: Segment, __: Piece | None) -> None:
        work, inputs = slot.work, self._prepared(slot)
        hidden = self._shard.finish(self._settled(slot))
        if slot.start.kind is BatchKind.ENCODE:
            work.outputs = EncodeOutputs(self._shard, inputs, hidden)
            work.partial = work.outputs.candidates
            return
        assert self._sampler is not None, "where the head of a model that makes tokens is, there is a sampler"
        logits = self._shard.logits(hidden if inputs.draw_places is None else hidden[inputs.draw_places])
        if inputs.draw_copies is not None:
            logits = logits[inputs.draw_copies]
        masks = [draw.output.mask() if draw.output is not None else None for draw in inputs.draws]  # waits, if at all
        work.candidates = self._sampler.candidates(logits, inputs.draws, masks)
        work.prompts = PromptOutputs(self._shard, inputs.predictions, hidden)
        work.partial = torch.cat([work.candidates.payload, work.prompts.payload])

    def _gather(self, slot: Slot, _: Segment, __: Piece | None) -> Exchange:
        work = slot.work
        assert work.partial is not None, "a gather follows the head"
        part, work.partial = work.partial, None
        empty = DoneExchange(*[part] * self._communicator.world_size)  # if nothing is drawn or scored: so on all ranks
        exchange = self._communicator.all_gather(part) if part.numel() else empty
        work.exchanges.append(exchange)
        return exchange

    def _sample(self, slot: Slot, _: Segment, __: Piece | None) -> None:
        work, inputs = slot.work, self._prepared(slot)
        assert work.candidates is not None and work.prompts is not None, "the head comes first"  # noqa: PT018 - one bug
        parts, size = self._wait(work.exchanges.pop()), len(work.candidates.payload)
        work.drawn = work.candidates.choose([part[:size] for part in parts], self._ask_again)
        work.prompt_logprobs = work.prompts.results([part[size:] for part in parts])
        work.candidates = work.prompts = None
        rows = inputs.draw_rows
        assert rows is not None, "what is drawn belongs to sequences"
        self._table.put_tokens(rows, torch.tensor(work.drawn.token_ids, dtype=torch.int64, device=rows.device))
        count_drawn(inputs.draws, work.drawn)

    def _ask_again(self, part: Tensor) -> tuple[Tensor, ...]:
        """Gather what filters left undecided, at once; all ranks are at the same place of their order."""
        return self._wait(self._communicator.all_gather(part))

    def _send(self, slot: Slot, segment: Segment, _: Piece | None) -> Exchange:
        assert segment.peer is not None, "a send has a peer"
        if not is_feedback(segment):
            return self._links.send(self._shard.suspend(self._settled(slot)), segment.peer)
        assert slot.work.drawn is not None, "tokens are drawn before they are sent"
        return self._links.send(torch.tensor(slot.work.drawn.token_ids, dtype=torch.int64), segment.peer)

    def _receive(self, slot: Slot, segment: Segment, _: Piece | None) -> Exchange:
        arrival = slot.work.arrival
        assert arrival is not None, "what is received was sent before"
        if is_feedback(segment):
            self._feedback.add(slot.claim.draw_rows, arrival)
        return arrival

    def _prepared(self, slot: Slot) -> BatchInputs:
        if slot.work.inputs is None:
            slot.work.inputs = self._inputs.prepare(slot.claim)
        return slot.work.inputs

    def _settled(self, slot: Slot) -> Activation:
        """Return the batch's activation with the addends of its last exchange."""
        work = slot.work
        if work.activation is None:
            assert work.arrival is not None, "embed or receive comes first"
            (residual,) = self._wait(work.arrival)
            work.activation, work.arrival = self._shard.resume(residual, self._prepared(slot).positions), None
        elif work.exchanges:
            results = [self._wait(exchange) for exchange in work.exchanges]
            assert work.partial is not None, "it was exchanged"
            work.activation.addends = results[0] if len(results) == 1 else (work.partial,)
            work.exchanges, work.partial = [], None
        return work.activation

    def _wait(self, exchange: Exchange) -> tuple[Tensor, ...]:
        began_ns = self._clock_ns()
        result = exchange.wait()
        self.waited_ns += self._clock_ns() - began_ns
        return result


def rows_of_piece(piece: Piece, num_rows: int) -> slice:
    """Return the rows of a piece; empty if there are more pieces than rows."""
    return slice(piece.index * num_rows // piece.count, (piece.index + 1) * num_rows // piece.count)
