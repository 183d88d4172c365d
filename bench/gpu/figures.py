"""What times say together: gains, bounds, and how much of what can be hidden is. Pure; None for what is not known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneTimes:
    """Milliseconds a batch, in steady state."""

    compute: float  # one batch at a time, exchanging nothing
    serial_nccl: float | None  # one at a time; None where NCCL is no baseline
    serial_same_exchange: float  # one at a time, over the exchange that interleaving uses
    serial_others: Mapping[str, float]  # one at a time, over other exchanges, by name
    interleaved: Mapping[int, float]  # by depth
    whole: float | None  # one at a time, unsplit on one rank


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneFigures:
    """What `PlaneTimes` say."""

    serial_best_ms: float
    serial_best: str  # whose it is
    interleaved_ms: float
    interleaved_depth: int
    communication_ms: float  # that serial runs over the same exchange show
    hideable_ms: float
    hidden_fraction: float | None  # None where nothing can be hidden
    gain_vs_nccl: float | None
    gain_vs_best_serial: float
    gain_vs_same_exchange: float
    bound: float  # of the gain over the same exchange: the busier lane alone
    bound_vs_nccl: float | None  # serial NCCL over compute alone, as in GPU_FACTS
    pipeline_ms: float | None
    independent_ms: float | None


def plane_figures(times: PlaneTimes, *, num_ranks: int, exchange: str, fits_one: bool) -> PlaneFigures:
    """Return what one row of times says.

    Args:
        times: Measured.
        num_ranks: That share each layer.
        exchange: Name of the exchange that interleaving uses.
        fits_one: Whether the real model fits one device, so that independent copies are an option.
    """
    serial = dict(times.serial_others) | {exchange: times.serial_same_exchange}
    if times.serial_nccl is not None:
        serial["nccl"] = times.serial_nccl
    best = min(serial, key=lambda name: serial[name])
    depth = min(times.interleaved, key=lambda each: times.interleaved[each])
    interleaved = times.interleaved[depth]
    communication = max(times.serial_same_exchange - times.compute, 0.0)
    hideable = min(times.compute, communication)
    each_whole = None if times.whole is None else times.whole / num_ranks
    return PlaneFigures(
        serial_best_ms=serial[best],
        serial_best=best,
        interleaved_ms=interleaved,
        interleaved_depth=depth,
        communication_ms=communication,
        hideable_ms=hideable,
        hidden_fraction=(times.serial_same_exchange - interleaved) / hideable if hideable > 0 else None,
        gain_vs_nccl=None if times.serial_nccl is None else times.serial_nccl / interleaved,
        gain_vs_best_serial=serial[best] / interleaved,
        gain_vs_same_exchange=times.serial_same_exchange / interleaved,
        bound=times.serial_same_exchange / max(times.compute, communication),
        bound_vs_nccl=None if times.serial_nccl is None else times.serial_nccl / times.compute,
        pipeline_ms=each_whole,
        independent_ms=each_whole if fits_one else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Decode beside prefill: what clients see of each way."""

    steps_per_chunk: int
    gap_p90_ms: float  # between a stream's tokens
    decode_per_s: float  # steps
    chunks_per_s: float


_EQUAL: Final = 0.98  # of the other's throughput


def choose_mixed(serial: Mixed, interleaved: Sequence[Mixed]) -> Mixed | None:
    """Return the interleaved run with the best gaps among those with at least serial's throughput of both kinds."""
    equal = [
        one
        for one in interleaved
        if one.chunks_per_s >= _EQUAL * serial.chunks_per_s and one.decode_per_s >= _EQUAL * serial.decode_per_s
    ]
    return min(equal, key=lambda one: one.gap_p90_ms, default=None)


def summarize(planes: Sequence[Mapping[str, object]], decodes: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Return the ratios of a whole run as `bench.link` names them, by shape: medians over tokens; worst of decodes."""
    shapes = dict.fromkeys(str(row["shape"]) for row in (*planes, *decodes))
    return {shape: _summary(_of(shape, planes), _of(shape, decodes)) for shape in shapes}


def _of(shape: str, rows: Sequence[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [row for row in rows if row["shape"] == shape]


def _summary(
    planes: Sequence[Mapping[str, object]], decodes: Sequence[Mapping[str, object]]
) -> dict[str, float | int | None]:
    slower = _numbers(decodes, "chosen_slower")
    return {
        "throughput_vs_tensor": _median(planes, "gain_vs_best_serial"),
        "throughput_vs_nccl": _median(planes, "gain_vs_nccl"),
        "throughput_vs_same_exchange": _median(planes, "gain_vs_same_exchange"),
        "bound_vs_same_exchange": _median(planes, "bound"),
        "throughput_vs_pipeline": _median(planes, "throughput_vs_pipeline"),
        "hidden_fraction": _median(planes, "hidden_fraction"),
        "least_gain_vs_best_serial": min(_numbers(planes, "gain_vs_best_serial"), default=None),
        "least_chosen_gain_vs_best_serial": min(_numbers(planes, "chosen_gain_vs_best_serial"), default=None),
        "max_rel_error": max(_numbers(planes, "max_rel_error"), default=None),
        "decode_slower_than_best": max(slower, default=None),
        "decode_p90_vs_tensor_at_its_throughput": _median(decodes, "mixed_p90_ratio"),
    }


def _numbers(rows: Sequence[Mapping[str, object]], key: str) -> list[float]:
    return [float(value) for row in rows if isinstance(value := row.get(key), int | float)]


def _median(rows: Sequence[Mapping[str, object]], key: str) -> float | None:
    found = _numbers(rows, key)
    return median(found) if found else None
