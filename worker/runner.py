"""Runs single segments of batches: compute at once, exchanges in the background, waits where a lane changes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from liger.domain import BatchKind, SegmentKind
from liger.schedule import BatchOutcome, ItemResult, Logprob, Piece, Segment
from worker.communicator.base import Communicator, Exchange
from worker.communicator.local import DoneExchange
from worker.communicator.pieces import whole
from worker.communicator.stage_links import StageLinks
from worker.devices.base import Device
from worker.feedback import Feedback
from worker.inputs import BatchInputs, InputBuilder
from worker.outputs import EncodeOutputs, PromptOutputs
from worker.recorder import Recorder
from worker.sampling.draw import count_drawn
from worker.sampling.sampler import Sampler
from worker.segments import is_feedback
from worker.sequences import SequenceTable
from worker.shards.rotary import Rotation
from worker.shards.shard import Activation, Shard
from worker.slots import Slot

Launch = Callable[[Slot, Segment, Piece | None], Exchange | None]
ReadBatch = Callable[[], BatchOutcome]
"""Tells what a batch gave; for the reading thread, behind the fence of the window in which it ended."""


class SegmentRunner:
    """One rank's segments.

    Args:
        shard: This rank's part of the model.
        communicator: Exchanges with the ranks of its stage.
        links: Exchanges with other stages.
        table: Running sequences.
        inputs: Prepares batches.
        sampler: Draws tokens; None where none are drawn.
        device: What all of it runs on.
        recorder: Is told of waits.
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
        device: Device,
        recorder: Recorder,
    ) -> None:
        self._shard = shard
        self._communicator = communicator
        self._links = links
        self._table = table
        self._inputs = inputs
        self._sampler = sampler
        self._device = device
        self._recorder = recorder
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

    def begin_window(self, *, is_timed: bool, num_batches: int) -> None:
        """Begin a window of so many batches, whose exchanges note when they run if it is timed."""
        self._communicator.timed, self._communicator.is_beside = is_timed, num_batches > 1

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
            size = len(slot.claim.draws)
            buffer = torch.empty(size, dtype=torch.int64, device=self._device.torch_device)
        else:
            buffer = self._inputs.new_residual(slot.claim)
        slot.work.arrival = self._links.receive(buffer, send.stage)

    def prepare(self, slot: Slot) -> BatchInputs:
        """Bring a batch's inputs to the device, once."""
        if slot.work.inputs is None:
            slot.work.inputs = self._inputs.prepare(slot.claim, slot.number)
        return slot.work.inputs

    def results(self, slot: Slot) -> ReadBatch:
        """Begin to fetch what a batch gave, after its last segment here."""
        work, batch_id, fetch = slot.work, slot.start.batch_id, self._device.fetch
        read_drawn = work.drawn.read(fetch) if work.drawn is not None else _nothing_drawn
        read_items: Callable[[], tuple[ItemResult, ...]] = tuple
        if work.outputs is not None:
            parts = self._wait(work.exchanges.pop()) if work.outputs.needs_candidates else ()
            read_items = work.outputs.read(parts, fetch)
        read_prompts: Callable[[], tuple[Logprob, ...]] = tuple
        if work.prompts is not None:
            read_prompts = work.prompts.read(work.prompt_parts, fetch)

        def read() -> BatchOutcome:
            token_ids, logprobs = read_drawn()
            return BatchOutcome(
                batch_id=batch_id,
                token_ids=token_ids,
                logprobs=logprobs,
                items=read_items(),
                prompt_logprobs=read_prompts(),
            )

        return read

    def _embed(self, slot: Slot, _: Segment, __: Piece | None) -> None:
        if slot.start.kind is BatchKind.DECODE:
            self._feedback.settle(slot.claim.draw_rows)
        inputs = self.prepare(slot)
        token_ids = inputs.token_ids
        if token_ids is None:
            assert inputs.table_rows is not None, "what was drawn belongs to sequences"
            token_ids = self._table.take_tokens(inputs.table_rows)
        residual, rotation = self._fixed(slot, len(inputs.positions))
        slot.work.activation = self._shard.embed(
            token_ids, inputs.positions, inputs.token_type_ids, residual=residual, rotation=rotation
        )

    def _attention(self, slot: Slot, segment: Segment, _: Piece | None) -> None:
        settled, attend = self._settled(slot), self.prepare(slot).attend
        slot.work.partial = self._shard.attention(segment.layer, settled, attend, self._partial(slot, 0))

    def _mlp(self, slot: Slot, segment: Segment, piece: Piece | None) -> None:
        work = slot.work
        if piece is None:
            settled = self._settled(slot)
            work.partial = self._shard.mlp(segment.layer, settled, self._partial(slot, 1))
            return
        if piece.index == 0:
            settled = self._settled(slot)
            memory = self._hold(slot, "mlp_input", settled.residual.shape)
            work.mlp_input = self._shard.mlp_input(segment.layer, settled, memory)
            work.partial = self._partial(slot, 1)
        assert work.mlp_input is not None and work.partial is not None, "pieces come in order"  # noqa: PT018 - one bug
        rows = rows_of_piece(piece, len(work.partial))
        if rows.start < rows.stop:
            self._shard.mlp_rows(segment.layer, work.mlp_input[rows], work.partial[rows])
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
        work, inputs = slot.work, self.prepare(slot)
        hidden = self._shard.finish(self._settled(slot))[: inputs.num_tokens]
        if slot.start.kind is BatchKind.ENCODE:
            work.outputs = EncodeOutputs(self._shard, inputs, hidden, self._device.bring)
            work.partial = work.outputs.candidates
            return
        assert self._sampler is not None, "where the head of a model that makes tokens is, there is a sampler"
        logits = self._shard.logits(hidden if inputs.draw_places is None else hidden[inputs.draw_places])
        if inputs.draw_copies is not None:
            logits = logits[inputs.draw_copies]
        masks = [draw.output.mask() if draw.output is not None else None for draw in inputs.draws]  # waits, if at all
        work.candidates = self._sampler.candidates(logits, inputs.draws, masks)
        work.prompts = PromptOutputs(self._shard, inputs.predictions, hidden, self._device.bring)
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
        work, inputs = slot.work, self.prepare(slot)
        assert work.candidates is not None and work.prompts is not None, "the head comes first"  # noqa: PT018 - one bug
        parts, size = self._wait(work.exchanges.pop()), len(work.candidates.payload)
        work.drawn = work.candidates.choose([part[:size] for part in parts], self._ask_again)
        work.prompt_parts = tuple(part[size:] for part in parts)
        work.candidates = None
        rows = inputs.draw_rows
        assert rows is not None, "what is drawn belongs to sequences"
        self._table.put_tokens(rows, work.drawn.tokens)
        count_drawn(inputs.draws, work.drawn)

    def _ask_again(self, part: Tensor) -> tuple[Tensor, ...]:
        """Gather what filters left undecided, at once; all ranks are at the same place of their order."""
        return self._wait(self._communicator.all_gather(part))

    def _send(self, slot: Slot, segment: Segment, _: Piece | None) -> Exchange:
        assert segment.peer is not None, "a send has a peer"
        if not is_feedback(segment):
            return self._links.send(self._leaving(slot), segment.peer)
        assert slot.work.drawn is not None, "tokens are drawn before they are sent"
        return self._links.send(slot.work.drawn.tokens, segment.peer)

    def _receive(self, slot: Slot, segment: Segment, _: Piece | None) -> Exchange:
        arrival = slot.work.arrival
        assert arrival is not None, "what is received was sent before"
        if is_feedback(segment):
            self._feedback.add(slot.claim.draw_rows, arrival)
        return arrival

    def _leaving(self, slot: Slot) -> Tensor:
        """Return what another stage goes on with: without padding, in memory that the next batch leaves alone."""
        residual = self._shard.suspend(self._settled(slot))[: slot.claim.num_tokens]
        return residual.clone() if self._device.runs_ahead else residual

    def _settled(self, slot: Slot) -> Activation:
        """Return the batch's activation with the addends of its last exchange."""
        work = slot.work
        if work.activation is None:
            assert work.arrival is not None, "embed or receive comes first"
            (arrived,) = self._wait(work.arrival)
            positions = self.prepare(slot).positions
            if len(arrived) < len(positions):  # it comes without padding
                arrived = pad(arrived, (0, 0, 0, len(positions) - len(arrived)))
            residual, rotation = self._fixed(slot, len(positions))
            work.activation = self._shard.resume(arrived, positions, residual=residual, rotation=rotation)
            work.arrival = None
        elif work.exchanges:
            results = [addends for exchange in work.exchanges if (addends := self._wait(exchange))]
            assert work.partial is not None, "it was exchanged"
            work.activation.addends = whole(results)
            work.exchanges, work.partial = [], None
        return work.activation

    def _partial(self, slot: Slot, place: int) -> Tensor:
        """Return memory for a batch's partial sums, those after attention (0) or after the MLP (1)."""
        act = slot.work.activation
        assert act is not None, "a segment before gave it"
        num_tokens, hidden_size = act.residual.shape
        return self._communicator.partial(slot.number, place, (num_tokens, hidden_size), act.residual.dtype)

    def _fixed(self, slot: Slot, num_tokens: int) -> tuple[Tensor | None, Rotation | None]:
        """Return a batch's memory for residual and rotation, where captured graphs need it at one place."""
        spec = self._shard.spec
        residual = self._hold(slot, "residual", (num_tokens, spec.hidden_size))
        if spec.rope is None or residual is None:
            return residual, None
        turns = [self._hold(slot, name, (num_tokens, 1, spec.head_dim)) for name in ("cosines", "sines")]
        return residual, Rotation(*(turn for turn in turns if turn is not None))

    def _hold(self, slot: Slot, name: str, shape: Sequence[int]) -> Tensor | None:
        """Return memory of the slot for activations; None where nothing needs a fixed place."""
        if not self._device.runs_ahead:
            return None
        return self._device.arena(slot.number).hold(name, shape, self._inputs.dtype)

    def _wait(self, exchange: Exchange) -> tuple[Tensor, ...]:
        self._recorder.begin_wait()
        result = exchange.wait()
        self._recorder.end_wait()
        return result


def _nothing_drawn() -> tuple[tuple[int, ...], tuple[Logprob, ...]]:
    return (), ()


def rows_of_piece(piece: Piece, num_rows: int) -> slice:
    """Return the rows of a piece; empty if there are more pieces than rows."""
    return slice(piece.index * num_rows // piece.count, (piece.index + 1) * num_rows // piece.count)
