"""What results mean for requests: tokens and outputs given out, sequences ended, requests closed."""

from collections.abc import Sequence as Items

from controller.core.batch import Batch
from controller.core.batch_manager import BatchManager
from controller.core.events import Event, OutputMade, RequestBroken, RequestEnded, StepMade, TokensMade
from controller.core.ledger import Entry, Ledger
from controller.core.sequence import Sequence, SequenceState
from liger.domain import FinishReason
from liger.errors import GroupFailedError, LigerError
from liger.schedule import BatchOutcome, Logprob, PrefillRows


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
        drawing = batch.drawing
        self._check_counts(batch, drawing, result)
        self._batches.settled(batch.sequences, _computed(batch))
        self._keep_prompt_logprobs(batch, result.prompt_logprobs)
        events = self._take_all(drawing, result, now_ns)
        for sequence in batch.sequences:
            if sequence.state is not SequenceState.RUNNING:
                self._batches.memory.release_if_over(sequence)
        return events

    def close_if_done(self, entry: Entry, now_ns: int) -> list[Event]:
        """End a request if nothing is left to give."""
        if not entry.is_done:
            return []
        self._ledger.close(entry.request.request_id)
        return [RequestEnded(request_id=entry.request.request_id, account=entry.account(now_ns, self._batches.pace))]

    def break_off(self, entry: Entry, error: LigerError) -> list[Event]:
        """End a request that fails."""
        self._batches.drop_items(entry.request.request_id)
        for sequence in entry.sequences:
            if sequence.finish_reason is None:
                sequence.end(FinishReason.CANCELLED)
        for sequence in entry.sequences:  # only now: else followers would begin anew
            self._batches.ended(sequence)
        self._ledger.close(entry.request.request_id)
        return [RequestBroken(request_id=entry.request.request_id, error=error)]

    def end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End one sample; what it holds is free once no batch in flight has it."""
        sequence.end(reason)
        self._batches.ended(sequence)

    def _check_counts(self, batch: Batch, drawing: Items[Sequence], result: BatchOutcome) -> None:
        if len(drawing) != len(result.token_ids):
            raise GroupFailedError(f"batch {batch.batch_id} draws {len(drawing)} tokens, {len(result.token_ids)} came")
        asking = sum(sequence.sampling.logprobs is not None for sequence in drawing)
        if asking != len(result.logprobs):
            raise GroupFailedError(f"batch {batch.batch_id} gives {asking} likelihoods, {len(result.logprobs)} came")

    def _keep_prompt_logprobs(self, batch: Batch, logprobs: tuple[Logprob, ...]) -> None:
        """Keep the likelihoods of prompts, chunk by chunk, until the first token goes out."""
        taken = 0
        if isinstance(rows := batch.start.rows, PrefillRows):
            by_row = {sequence.row: sequence for sequence in batch.sequences}
            for row, start, count in zip(rows.rows, rows.starts, rows.num_tokens, strict=True):
                sequence = by_row[row]
                if not sequence.wants_prompt_logprobs:
                    continue
                end = taken + rows.num_predicted(start, count, sequence.num_prompt_tokens)
                entry = self._ledger.find(sequence.request_id)
                if entry is not None and sequence in entry.sequences:  # the id may have come again
                    del entry.prompt_logprobs[start:]  # of an earlier try, which was preempted
                    entry.prompt_logprobs += logprobs[taken:end]
                taken = end
                sequence.gave_prompt_logprobs = start + count == sequence.num_to_prefill
        if taken != len(logprobs):
            raise GroupFailedError(f"batch {batch.batch_id} gives {taken} likelihoods of prompts, {len(logprobs)} came")

    def _take_all(self, drawing: Items[Sequence], result: BatchOutcome, now_ns: int) -> list[Event]:
        """Commit a batch's tokens. Late ones, computed before their sequence's end was known, are dropped.

        Most samples go on and are told of in columns; that loop runs once for every token of the group, so it spares
        calls.
        """
        logprobs = iter(result.logprobs)
        steps: dict[int, StepMade] = {}  # by conversation
        events: list[Event] = []
        for sequence, token_id in zip(drawing, result.token_ids, strict=True):
            wanted = () if sequence.sampling.logprobs is None else (next(logprobs),)
            if sequence.finish_reason is not None:
                continue
            offset = len(sequence.output)
            reason = sequence.take(token_id)
            stream = sequence.stream
            if offset == 0 or wanted or reason is not None or stream is None:
                events += self._told_alone(sequence, offset, token_id, wanted, now_ns)
                continue
            step = steps.get(stream.conversation)
            if step is None:
                step = steps[stream.conversation] = StepMade([], [], [])
            step.streams.append(stream)
            step.offsets.append(offset)
            step.token_ids.append(token_id)
        return [*steps.values(), *events]  # columns first: what ends a request comes last

    def _told_alone(
        self, sequence: Sequence, offset: int, token_id: int, logprobs: tuple[Logprob, ...], now_ns: int
    ) -> list[Event]:
        """Return what becomes of a token that begins or ends a sample, or has more to tell."""
        entry = self._ledger.find(sequence.request_id)
        assert entry is not None, "a sequence without an end is of a request under way"
        prompt: tuple[Logprob, ...] = ()
        if offset == 0:
            entry.first_ns = now_ns if entry.first_ns is None else entry.first_ns
            prompt = tuple(entry.prompt_logprobs) if sequence.sample == 0 else ()
        reason = sequence.finish_reason
        made = TokensMade(sequence.request_id, sequence.sample, offset, (token_id,), logprobs, reason, prompt)
        if reason is None:
            return [made]
        self._batches.ended(sequence)
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


def _computed(batch: Batch) -> tuple[int, ...]:
    """Return how many tokens of each sequence are computed once the batch is done."""
    rows = batch.start.rows
    if isinstance(rows, PrefillRows):
        ends = zip(rows.starts, rows.num_tokens, rows.forks(), strict=True)
        return tuple(start + count for start, count, forks in ends for _ in range(1 + len(forks)))
    return tuple([position + 1 for position in getattr(rows, "positions", ())])
