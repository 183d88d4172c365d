"""Columns of other types in float32 payloads, bit for bit: exchanges copy payloads and never compute with them."""

import torch
from torch import Tensor


def pack(columns: Tensor) -> Tensor:
    """Return [rows, n] float64 as [rows, 2n] float32, or int64 below 2^31 as [rows, n] float32."""
    if columns.dtype is torch.int64:
        columns = columns.to(torch.int32)
    return columns.contiguous().view(torch.float32)


def unpack_floats(payload: Tensor) -> Tensor:
    """Return [..., 2n] float32 as the float64 it was packed from, [..., n]."""
    return payload.clone(memory_format=torch.contiguous_format).view(torch.float64)


def unpack_ids(payload: Tensor) -> Tensor:
    """Return [..., n] float32 as the int64 it was packed from."""
    return payload.contiguous().view(torch.int32).to(torch.int64)


def pad_columns(columns: Tensor, width: int, filler: float) -> Tensor:
    """Return [rows, width] from [rows, n]."""
    missing = width - columns.shape[-1]
    return torch.nn.functional.pad(columns, (0, missing), value=filler) if missing else columns
