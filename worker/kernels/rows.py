"""How kernels see rows: what they ask of memory, and how many warps share a row."""

from torch import Tensor


def check_rows(*tensors: Tensor) -> None:
    """Check that tensors are alike and that their rows follow one another without gaps."""
    first = tensors[0]
    assert all(tensor.is_contiguous() for tensor in tensors), "kernels step from row to row by the row's width"
    assert all(tensor.shape == first.shape and tensor.dtype == first.dtype for tensor in tensors), "rows must be alike"


def num_warps(block: int) -> int:
    """Return the warps for `block` elements of a row: 16 elements a thread, two loads of 16 bytes in 16-bit types."""
    return max(1, min(16, block // 512))
