"""Puts the results of exchanged pieces together."""

from collections.abc import Sequence

import torch
from torch import Tensor


def whole(pieces: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Return the addends [num_tokens, hidden] of a tensor that was exchanged in pieces.

    No bytes move where the pieces of an addend lie one after another in one memory, as communicators give them. Pieces
    that came different ways may have different numbers of addends: each is then summed to one.

    Args:
        pieces: The addends of each piece in row order, each [rows, hidden]; none of a piece without rows.
    """
    full = [addends for addends in pieces if addends]
    if len({len(addends) for addends in full}) > 1:
        full = [(sum_in_order(addends),) for addends in full]
    return tuple(_joined(rows) for rows in zip(*full, strict=True))


def sum_in_order(addends: Sequence[Tensor], total: Tensor | None = None) -> Tensor:
    """Sum addends in their order, in float32 at least, rounded once.

    Args:
        addends: Of one shape and dtype.
        total: Takes the sum, and may be an addend; otherwise the sum is new, or a lone addend itself.
    """
    if total is None and len(addends) == 1:
        return addends[0]
    first = addends[0]
    result = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
    for addend in addends[1:]:
        result += addend
    return result.to(first.dtype) if total is None else total.copy_(result)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0]
    if len(parts) == 1:
        return first
    if not _are_adjacent(parts):
        return torch.cat(tuple(parts))
    num_rows = sum(len(part) for part in parts)
    return first.as_strided((num_rows, first.shape[1]), first.stride(), first.storage_offset())


def _are_adjacent(parts: Sequence[Tensor]) -> bool:
    first, row = parts[0], parts[0].storage_offset()
    for part in parts:
        in_place = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not in_place or part.stride() != first.stride() or part.storage_offset() != row:
            return False
        row += len(part) * first.stride(0)
    return True
