"""Turns what was chosen into batches as ranks get them."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from controller.core.batch import Batch
from controller.core.requests import EncodeItem
from controller.core.sequence import Sequence
from controller.core.sequence_memory import Appends
from liger.domain import BatchKind
from liger.schedule import BatchRows, BatchStart, DecodeRows, EncodeRows, PrefillRows


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some tokens of a sequence, in a prefill batch."""

    sequence: Sequence
    start: int  # place of its first token
    stop: int
    forks: tuple[Sequence, ...] = ()  # further samples that begin with its last token


def start_of(batch_id: int, kind: BatchKind, slot: int, rows: BatchRows) -> BatchStart:
    """Return a batch's start."""
    return BatchStart(batch_id=batch_id, kind=kind, slot=slot, rows=rows)


def prefill_batch(batch_id: int, slot: int, chunks: Items[Chunk], appends: Appends) -> Batch:
    """Return the batch of some chunks."""
    forks = [fork.row for chunk in chunks for fork in chunk.forks]
    members = [sequence for chunk in chunks for sequence in (chunk.sequence, *chunk.forks)]
    rows = PrefillRows(
        rows=tuple(chunk.sequence.row for chunk in chunks),
        num_tokens=tuple(chunk.stop - chunk.start for chunk in chunks),
        starts=tuple(chunk.start for chunk in chunks),
        token_ids=tuple(token for chunk in chunks for token in chunk.sequence.token_ids(chunk.start, chunk.stop)),
        samples=tuple(chunk.stop == chunk.sequence.num_to_prefill for chunk in chunks),
        appends=appends.done(),
        fork_counts=tuple(len(chunk.forks) for chunk in chunks) if forks else (),
        fork_rows=tuple(forks),
    )
    return Batch(
        start=start_of(batch_id, BatchKind.PREFILL, slot, rows),
        num_tokens=len(rows.token_ids),
        sequences=tuple(members),
        sequence_starts=tuple(sequence for sequence in members if not sequence.is_on_ranks),
        copied=appends.sources,
    )


def decode_batch(
    batch_id: int, slot: int, sequences: Items[Sequence], positions: Items[int], appends: Appends
) -> Batch:
    """Return the batch of the next token of some sequences, at those places."""
    rows = DecodeRows(
        rows=tuple([sequence.row for sequence in sequences]),
        positions=tuple(positions),
        appends=appends.done(),
    )
    start = start_of(batch_id, BatchKind.DECODE, slot, rows)
    return Batch(start=start, num_tokens=len(sequences), sequences=tuple(sequences), copied=appends.sources)


def encode_rows(items: Items[EncodeItem]) -> EncodeRows:
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
