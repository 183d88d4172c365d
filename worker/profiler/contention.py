"""What running compute and exchanges together tells of how they slow each other. Pure."""

from typing import Final

MOST: Final = 4.0  # no factor is larger
_MOST_RUNS: Final = 64  # of the shorter of the two
_LEAST_OVERLAP: Final = 0.1  # of a lane's time alone; below, a factor cannot be told


def balanced(compute_ns: int, exchange_ns: int, enough_ns: int) -> tuple[int, int]:
    """Return how many of each to run so that both lanes are busy for about as long.

    Args:
        compute_ns: Of one compute, alone.
        exchange_ns: Of one exchange, alone.
        enough_ns: Time of both lanes; a co-run that takes less shows little but noise.
    """
    shorter_ns, longer_ns = sorted((max(1, compute_ns), max(1, exchange_ns)))
    target_ns = max(longer_ns, min(enough_ns, _MOST_RUNS * shorter_ns))
    num_computes, num_exchanges = (
        min(_MOST_RUNS, -(-target_ns // max(1, duration_ns))) for duration_ns in (compute_ns, exchange_ns)
    )
    return num_computes, num_exchanges


def factors(alone_ns: tuple[int, int], together_ns: tuple[int, int]) -> tuple[float, float]:
    """Return how many times longer compute and exchange take beside each other, 1 to 4.

    Args:
        alone_ns: Time of the compute and of the exchanges, each alone.
        together_ns: When each was done, having begun at 0 together. What is done later ran alone from there on.
    """
    overlap_ns = min(together_ns)
    compute, exchange = (
        _factor(alone, overlap_ns, alone_after_ns=done - overlap_ns)
        for alone, done in zip(alone_ns, together_ns, strict=True)
    )
    return compute, exchange


def _factor(alone_ns: int, overlap_ns: int, *, alone_after_ns: int) -> float:
    done_beside_ns = alone_ns - alone_after_ns  # of its time alone, what was done in the overlap
    if overlap_ns < _LEAST_OVERLAP * alone_ns:
        return 1.0
    return min(MOST, max(1.0, overlap_ns / max(1, done_beside_ns)))
