"""Digests by which ranks and controller agree on an order: blake2b of 8 bytes over fixed-width little-endian fields."""

import struct
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

from liger.domain import BatchKind
from liger.schedule import Step

_LAUNCH: Final = struct.Struct("<IIBBII")


class LaunchDigest:
    """Digest of the launches of one window, in the order in which they are added."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=8)

    def add(self, step: Step) -> None:
        """Add one launch."""
        self._hash.update(_launch(step))

    def value(self) -> int:
        """Return the digest of all launches so far, as an unsigned 64-bit number."""
        return int.from_bytes(self._hash.digest(), "little")


def launch_digest(steps: Iterable[Step], rank: int) -> int:
    """Return the digest of what one rank launches of a pattern's steps."""
    digest = LaunchDigest()
    for step in steps:
        if takes_part(step, rank):
            digest.add(step)
    return digest.value()


def takes_part(step: Step, rank: int) -> bool:
    """Return whether a rank launches a step."""
    return not step.participants or rank in step.participants


def order_digest(launches: int, batch_ids: Sequence[int]) -> int:
    """Return the digest of a window: its launches (their digest, or a pattern's id) on behalf of its batches."""
    packed = struct.pack(f"<QI{len(batch_ids)}Q", launches, len(batch_ids), *batch_ids)
    return int.from_bytes(blake2b(packed, digest_size=8).digest(), "little")


def pattern_digest(operands: Sequence[BatchKind], steps: Iterable[Step]) -> int:
    """Return the id of a pattern: equal for equal contents."""
    hasher = blake2b(struct.pack(f"<I{len(operands)}B", len(operands), *operands), digest_size=8)
    for step in steps:
        hasher.update(_launch(step))
        hasher.update(struct.pack(f"<I{len(step.participants)}I", len(step.participants), *step.participants))
    return int.from_bytes(hasher.digest(), "little")


def token_digest(batch_ids: Sequence[int], token_ids: Sequence[Sequence[int]]) -> int:
    """Return the digest of the ids drawn in a window, batch by batch."""
    hasher = blake2b(digest_size=8)
    for batch_id, ids in zip(batch_ids, token_ids, strict=True):
        hasher.update(struct.pack(f"<QI{len(ids)}I", batch_id, len(ids), *ids))
    return int.from_bytes(hasher.digest(), "little")


def _launch(step: Step) -> bytes:
    piece = step.piece
    cut = (piece.axis, piece.index, piece.count) if piece else (0, 0, 0)
    return _LAUNCH.pack(step.operand, step.segment, step.lane, *cut)
