"""How long work tells how far it is."""

from collections.abc import Callable

# Called with what is being done, such as "downloading", and the share of it that is done, 0 to 1.
Progress = Callable[[str, float], None]


def silent(_phase: str, _fraction: float) -> None:
    """Tell nothing."""
