"""Rows (a): what the ranks measured of segments, exchanges and of both together."""

from liger.domain import BatchKind
from liger.profile import ProfileTable


def profile_rows(shape: str, exchange: str, table: ProfileTable) -> list[dict[str, object]]:
    """Return a profile as rows: one a segment and size, one a pair that ran together."""
    rows: list[dict[str, object]] = [
        {
            "shape": shape,
            "exchange": exchange,
            "batch": _name(one.batch),
            "segment": one.segment.name.lower(),
            "tokens": one.num_tokens,
            "context": one.context,
            "duration_us": one.duration_ns / 1e3,
        }
        for one in table.segments
    ]
    rows += [
        {
            "shape": shape,
            "exchange": exchange,
            "compute": one.compute.name.lower(),
            "compute_tokens": one.compute_tokens,
            "communication_bytes": one.communication_bytes,
            "compute_factor": one.compute_factor,
            "communication_factor": one.communication_factor,
        }
        for one in table.contention
    ]
    return rows


def _name(kind: BatchKind | None) -> str | None:
    return None if kind is None else kind.name.lower()
