"""Turns what the batch manager chose into batches as ranks get them."""

from controller.core.batch import Batch
from controller.core.requests import EncodeItem
from controller.core.sequence import Sequence
from liger.domain import BatchKind
from liger.schedule import BatchRows, BatchStart, BlockAppends, EncodeRows, PrefillRows


def start_of(batch_id: int, kind: BatchKind, slot: int, rows: BatchRows) -> BatchStart:
    """Return a batch's start."""
    return BatchStart(batch_id=batch_id, kind=kind, slot=slot, rows=rows)


def prefill_batch(batch_id: int, slot: int, chunks: list[tuple[Sequence, int, int]]) -> Batch:
    """Return the batch of some chunks: (sequence, first token, tokens)."""
    fresh = tuple(sequence for sequence, start, _ in chunks if start == 0)
    rows = PrefillRows(
        rows=tuple(sequence.row for sequence, _, _ in chunks),
        num_tokens=tuple(length for _, _, length in chunks),
        starts=tuple(start for _, start, _ in chunks),
        token_ids=tuple(
            token for sequence, start, length in chunks for token in sequence.work.prompt_token_ids[start:][:length]
        ),
        samples=tuple(start + length == sequence.num_prompt_tokens for sequence, start, length in chunks),
        appends=BlockAppends(
            rows=tuple(sequence.row for sequence in fresh),
            counts=tuple(len(sequence.blocks) for sequence in fresh),
            blocks=tuple(block for sequence in fresh for block in sequence.blocks),
        ),
    )
    return Batch(
        start=start_of(batch_id, BatchKind.PREFILL, slot, rows),
        num_tokens=len(rows.token_ids),
        sequences=tuple(sequence for sequence, _, _ in chunks),
        sequence_starts=fresh,
    )


def encode_rows(items: list[EncodeItem]) -> EncodeRows:
    """Return whole inputs in columns."""
    typed = any(item.token_type_ids for item in items)
    return EncodeRows(
        num_tokens=tuple(len(item.token_ids) for item in items),
        token_ids=tuple(token for item in items for token in item.token_ids),
        token_type_ids=tuple(
            kind for item in items for kind in (item.token_type_ids or (0,) * len(item.token_ids)) if typed
        ),
        outputs=tuple(item.output for item in items),
    )
