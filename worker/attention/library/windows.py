"""Sliding windows as kernels want them: how far a token sees to its left, itself not counted."""

from worker.attention.interface import AttentionShape


def matter(shape: AttentionShape) -> tuple[int | None, ...]:
    """Return by layer the window, None where it is so wide that it hides nothing."""
    return tuple(window if window is not None and window < shape.max_length else None for window in shape.windows)


def both_sides(window: int | None, *, causal: bool) -> tuple[int, int]:
    """Return how far a token sees to its left and right; -1 is everything."""
    if window is not None:
        return window - 1, 0
    return (-1, 0) if causal else (-1, -1)


def left_side(window: int | None) -> int:
    """Return how far a token sees to its left; -1 is everything."""
    return -1 if window is None else window - 1
