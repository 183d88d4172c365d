"""What results mean for requests: tokens and outputs given out, sequences ended, requests closed."""

from controller.core.batch import Batch
from controller.core.batch_manager import BatchManager
from controller.core.events import Event, OutputMade, RequestBroken, RequestEnded, TokensMade
from controller.core.ledger import Entry, Ledger
from controller.core.sequence import Sequence, SequenceState
from liger.domain import FinishReason
from liger.errors import GroupFailedError, LigerError
from liger.schedule import BatchOutcome, Logprob


class Settlement:
    """Ends what is over.

    Args:
        ledger: Requests under way.
        batches: Takes rows and blocks back.
    """

    def __init__(self, ledger: Ledger, batches: BatchManager) -> None:
        self._ledger = ledger
        self._batches = batches

    def settle(self, batch: Batch, result: BatchOutcome | None, now_ns: int) -> list[Event]:
        """Take the results of a batch whose last segment is done.

        Raises:
            GroupFailedError: They are not what the batch must give.
        """
        if result is None:
            raise GroupFailedError(f"batch {batch.batch_id} was acknowledged without its results")
        if batch.entries:
            return self._settle_items(batch, result, now_ns)
        drawing = [sequence for sequence, draws in zip(batch.sequences, _draws(batch), strict=True) if draws]
        if len(drawing) != len(result.token_ids):
            raise GroupFailedError(f"batch {batch.batch_id} draws {len(drawing)} tokens, {len(result.token_ids)} came")
        asking = sum(sequence.sampling.logprobs is not None for sequence in drawing)
        if asking != len(result.logprobs):
            raise GroupFailedError(f"batch {batch.batch_id} gives {asking} likelihoods, {len(result.logprobs)} came")
        logprobs = iter(result.logprobs)
        events: list[Event] = []
        for sequence in batch.sequences:
            sequence.num_unacknowledged -= 1
        for sequence, token_id in zip(drawing, result.token_ids, strict=True):
            wanted = (next(logprobs),) if sequence.sampling.logprobs is not None else ()
            events += self._take(sequence, token_id, wanted, now_ns)
        for sequence in batch.sequences:
            self._release_if_over(sequence)
        return events

    def close_if_done(self, entry: Entry, now_ns: int) -> list[Event]:
        """End a request if nothing is left to give."""
        if not entry.is_done:
            return []
        self._ledger.close(entry.request.request_id)
        return [RequestEnded(request_id=entry.request.request_id, account=entry.account(now_ns))]

    def break_off(self, entry: Entry, error: LigerError) -> list[Event]:
        """End a request that fails."""
        self._batches.drop_items(entry.request.request_id)
        for sequence in entry.sequences:
            if sequence.finish_reason is None:
                self.end(sequence, FinishReason.CANCELLED)
        self._ledger.close(entry.request.request_id)
        return [RequestBroken(request_id=entry.request.request_id, error=error)]

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End one sample; what it holds is free once no batch in flight has it."""
        sequence.end(reason)
        self._release_if_over(sequence)

    def _take(self, sequence: Sequence, token_id: int, logprobs: tuple[Logprob, ...], now_ns: int) -> list[Event]:
        entry = self._ledger.find(sequence.request_id)
        if entry is None or sequence.finish_reason is not None:
            return []  # a late token: computed before its sequence's end was known
        sequence.take(token_id)
        entry.num_given += 1
        entry.first_ns = now_ns if entry.first_ns is None else entry.first_ns
        made = TokensMade(
            request_id=sequence.request_id,
            sample=sequence.sample,
            offset=len(sequence.output) - 1,
            token_ids=(token_id,),
            logprobs=logprobs,
            finish_reason=sequence.finish_reason,
        )
        return [made, *self.close_if_done(entry, now_ns)]

    def _settle_items(self, batch: Batch, result: BatchOutcome, now_ns: int) -> list[Event]:
        if len(batch.entries) != len(result.items):
            raise GroupFailedError(
                f"batch {batch.batch_id} has {len(batch.entries)} inputs, {len(result.items)} came back"
            )
        events: list[Event] = []
        for part, item in zip(batch.entries, result.items, strict=True):
            entry = self._ledger.find(part.request_id)
            if entry is None or entry.opened != part.opened:
                continue  # it is over; another may have its id by now
            entry.num_items_left -= 1
            entry.first_ns = now_ns if entry.num_items_left == 0 else None
            events.append(OutputMade(request_id=part.request_id, item=part.item, result=item))
            events += self.close_if_done(entry, now_ns)
        return events

    def _release_if_over(self, sequence: Sequence) -> None:
        if sequence.state is SequenceState.ENDED and sequence.num_unacknowledged == 0:
            self._batches.release(sequence)


def _draws(batch: Batch) -> tuple[bool, ...]:
    samples: tuple[bool, ...] = getattr(batch.start.rows, "samples", (True,) * len(batch.sequences))
    return samples
