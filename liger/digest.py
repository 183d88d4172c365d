"""Digests by which ranks and controller agree on an order: blake2b of 8 bytes over fixed-width little-endian fields."""

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from liger.domain import BatchKind
from liger.schedule import Step

_LAUNCH: Final = struct.Struct("<QIIBBII")


class OrderDigest:
    """Digest of launches, in the order in which they are added."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=8)

    def add(self, batch_id: int, step: Step) -> None:
        """Add one launch of a batch's segment."""
        self._hash.update(_launch(batch_id, step))

    def value(self) -> int:
        """Return the digest of all launches so far, as an unsigned 64-bit number."""
        return int.from_bytes(self._hash.digest(), "little")


def order_digest(steps: Iterable[Step], batch_ids: Sequence[int]) -> int:
    """Return the digest of a whole window, `batch_ids[step.operand]` being the batch of each step."""
    digest = OrderDigest()
    for step in steps:
        digest.add(batch_ids[step.operand], step)
    return digest.value()


def pattern_digest(operands: Sequence[BatchKind], steps: Iterable[Step]) -> int:
    """Return the id of a pattern: equal for equal contents."""
    hasher = blake2b(struct.pack(f"<I{len(operands)}B", len(operands), *operands), digest_size=8)
    for step in steps:
        hasher.update(_launch(step.operand, step))
        hasher.update(struct.pack(f"<I{len(step.participants)}I", len(step.participants), *step.participants))
    return int.from_bytes(hasher.digest(), "little")


def token_digest(batch_ids: Sequence[int], token_ids: Sequence[Sequence[int]]) -> int:
    """Return the digest of the ids drawn in a window, batch by batch."""
    hasher = blake2b(digest_size=8)
    for batch_id, ids in zip(batch_ids, token_ids, strict=True):
        hasher.update(struct.pack(f"<QI{len(ids)}I", batch_id, len(ids), *ids))
    return int.from_bytes(hasher.digest(), "little")


def _launch(batch_id: int, step: Step) -> bytes:
    piece = step.piece
    cut = (piece.axis, piece.index, piece.count) if piece else (0, 0, 0)
    return _LAUNCH.pack(batch_id, step.operand, step.segment, step.lane, *cut)
