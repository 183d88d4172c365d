"""Rows (b): batches of whole inputs, one at a time and interleaved, and what hides how much of the communication."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from functools import partial
from typing import Final

import torch

from bench.gpu.figures import PlaneTimes, plane_figures
from bench.gpu.flow import Track
from bench.gpu.measured import Bench, encode_shape
from bench.gpu.plain_llama import PlainLlama, relative_error
from bench.gpu.rank_engine import Running, memory_bytes
from bench.gpu.shapes import VOCABULARY_SIZE, input_lengths
from bench.gpu.testbed import exchange_name, serial_names
from bench.gpu.timing import Contestant, Steady, measure_in_turn, run_flow, settle
from bench.gpu.weights import MadeSlices
from bench.gpu.words import NULL, SYMMETRIC, WHOLE
from controller.core.batch import Batch
from liger.domain import BatchKind, Pooling, PoolOutput
from liger.schedule import BatchOutcome, BatchRows, BatchStart, EncodeRows

_NUM_DIMENSIONS: Final = 8  # of each vector that timed batches give: reading them must cost nothing
_MOST_CHECKED_TWICE: Final = 2048  # tokens up to which slots get different inputs when results are checked
_FIT: Final = 0.9  # of a device's memory that a model's weights may take
_CHECK_S: Final = 10.0  # that the reference and the check may take, about
_NUM_FLOWS: Final = 1.5  # that a timed flow comes to with all that is around it, warm-ups apart


class DataPlane:
    """One shape's rows.

    Args:
        bench: The shape's.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._exchange = exchange_name(bench.settings, num_devices=bench.num_devices)
        memory = memory_bytes(bench.engines.device)
        self._fits_one = bench.engines.shape.real_bytes < _FIT * memory

    def run(self) -> None:
        """Measure every size that there is time for, and record its row."""
        bench = self._bench
        for num_tokens in bench.settings.tokens:
            if not bench.meeting.has_time_for(self._row_s(num_tokens)):
                bench.meeting.tell(f"{bench.name} {num_tokens} tokens: left out, the time is over")
                continue
            row = bench.meeting.attempt(f"{bench.name} {num_tokens} tokens", partial(self._row, num_tokens))
            if row is not None:
                bench.meeting.record("data_plane", row)

    def _row_s(self, num_tokens: int) -> float:
        """Return how long a row may take, about."""
        bench, shape = self._bench, encode_shape(num_tokens)
        names = serial_names(bench.settings, num_devices=bench.num_devices)
        num_flows = (3 + len(names) + len(bench.settings.depths)) * (bench.settings.rounds + 2)
        flow_s = bench.num_batches(shape, 2) * bench.alone_ns(shape) / 1e9
        return _CHECK_S + _NUM_FLOWS * num_flows * flow_s

    def _row(self, num_tokens: int) -> dict[str, object]:
        bench, settings = self._bench, self._bench.settings
        contestants = self._contestants(num_tokens)
        runs = measure_in_turn(contestants, bench.clock, bench.meeting, settings.rounds)
        found = {one.name: settle(runs[one.name], one.depth, bench.meeting) for one in contestants if one.name in runs}
        errors = self._errors(num_tokens, set(found))
        times = self._times(found)
        figures = plane_figures(
            times, num_ranks=settings.ranks, exchange=self._exchange, fits_one=self._fits_one
        )  # fmt: skip
        best = found[f"interleaved {figures.interleaved_depth}"]
        depth = bench.depth.depth([encode_batch(num_tokens)])
        chosen = chosen_ms(times, depth)
        pipeline = figures.pipeline_ms
        return {
            "shape": bench.name,
            "tokens": num_tokens,
            "link": settings.link,
            "exchange": self._exchange,
            "compute_ms": times.compute,
            "serial_nccl_ms": times.serial_nccl,
            "serial_same_exchange_ms": times.serial_same_exchange,
            "serial_ms": {name.removeprefix("serial "): _ms(one) for name, one in found.items() if "serial" in name},
            "interleaved_by_depth_ms": {str(depth): value for depth, value in times.interleaved.items()},
            **asdict(figures),
            "throughput_vs_pipeline": None if pipeline is None else pipeline / figures.interleaved_ms,
            "chosen_depth": depth,
            "chosen_ms": chosen,
            "chosen_gain_vs_best_serial": figures.serial_best_ms / chosen,
            "communication_busy_ms": best.communication_ns / 1e6,
            "idle_percent": 100 * best.idle_share,
            "max_rel_error": max(errors.values(), default=None),
            "rel_errors": errors,
        }

    def _times(self, found: dict[str, Steady]) -> PlaneTimes:
        others = {
            name.removeprefix("serial "): _ms(one)
            for name, one in found.items()
            if name.startswith("serial ") and name not in {"serial nccl", f"serial {self._exchange}"}
        }
        return PlaneTimes(
            compute=_ms(found[NULL]),
            serial_nccl=_ms(found["serial nccl"]) if "serial nccl" in found else None,
            serial_same_exchange=_ms(found[f"serial {self._exchange}"]),
            serial_others=others,
            interleaved={
                depth: _ms(found[name])
                for depth in self._bench.settings.depths
                if (name := f"interleaved {depth}") in found
            },
            whole=_ms(found[WHOLE]) if WHOLE in found else None,
        )

    def _contestants(self, num_tokens: int) -> list[Contestant]:
        bench = self._bench
        serial = [NULL, *serial_names(bench.settings, num_devices=bench.num_devices), WHOLE]
        found = [self._serial(name, running, num_tokens) for name in serial if (running := bench.engines.find(name))]
        found.append(self._serial(self._exchange, bench.exchange, num_tokens))
        found += [
            self._contestant(f"interleaved {depth}", bench.exchange, num_tokens, depth)
            for depth in bench.settings.depths
        ]
        return found

    def _serial(self, name: str, running: Running, num_tokens: int) -> Contestant:
        return self._contestant(name if name in {NULL, WHOLE} else f"serial {name}", running, num_tokens, 1)

    def _contestant(self, name: str, running: Running, num_tokens: int, depth: int) -> Contestant:
        tracks = [encode_track(slot, num_tokens, _NUM_DIMENSIONS) for slot in range(depth)]
        number = self._bench.num_batches(encode_shape(num_tokens), depth)
        return self._bench.flows(running).contestant(
            name, tracks, depth=depth, num_batches=number, is_optional=running.name in SYMMETRIC
        )

    def _errors(self, num_tokens: int, able: Collection[str]) -> dict[str, float]:
        """Return how far whole hidden states are off the float32 reference, by how they were computed; on rank 0."""
        bench = self._bench
        depth = max(bench.settings.depths)
        variants = 2 if num_tokens <= _MOST_CHECKED_TWICE else 1
        tracks = [encode_track(slot, num_tokens, 0, variant=slot % variants) for slot in range(depth)]
        names = serial_names(bench.settings, num_devices=bench.num_devices)
        engines = [(name, bench.engines.get(name), 1) for name in names if f"serial {name}" in able]
        engines += [(self._exchange, bench.exchange, 1), (f"interleaved {depth}", bench.exchange, depth)]
        given: dict[str, dict[int, list[BatchOutcome]]] = {}
        for name, running, each in engines:
            laid = self._bench.flows(running).lay(tracks[:each], depth=each, num_batches=each)
            slots = {start.batch_id: start.slot for one in laid for start in one.window.batch_starts}
            ran = run_flow(running, bench.clock, laid)
            given[name] = {}
            for batch_id, outcome in ran.outcomes.items():
                given[name].setdefault(slots[batch_id] % variants, []).append(outcome)
        bench.meeting.meet()
        if bench.meeting.rank:
            return {}
        references = [self._reference(num_tokens, variant) for variant in range(variants)]
        return {
            name: max(_error(outcome, references[variant]) for variant, own in by_variant.items() for outcome in own)
            for name, by_variant in given.items()
        }

    def _reference(self, num_tokens: int, variant: int) -> torch.Tensor:
        engines, settings = self._bench.engines, self._bench.settings
        slices = MadeSlices(stored=engines.dtype, given=torch.float32, device=engines.device, seed=settings.seed)
        model = PlainLlama(engines.shape, settings.layers, slices, engines.device)
        return model.last_states(token_ids(num_tokens, variant), input_lengths(num_tokens))


def chosen_ms(times: PlaneTimes, depth: int) -> float:
    """Return the time at a depth that depth control chose, or at the nearest that was measured below it."""
    measured = [each for each in sorted(times.interleaved) if each <= depth] or [min(times.interleaved)]
    return times.serial_same_exchange if depth == 1 else times.interleaved[measured[-1]]


def encode_batch(num_tokens: int) -> Batch:
    """Return a batch that waits, as depth control sees it."""
    rows = encode_track(0, num_tokens, _NUM_DIMENSIONS).rows(0)
    return Batch(start=BatchStart(batch_id=1, kind=BatchKind.ENCODE, slot=0, rows=rows), num_tokens=num_tokens)


def token_ids(num_tokens: int, variant: int = 0) -> tuple[int, ...]:
    """Return a batch's tokens."""
    return tuple((7 * place + 13 * (variant + 1) * (place // 5)) % VOCABULARY_SIZE for place in range(num_tokens))


def encode_track(slot: int, num_tokens: int, num_dimensions: int, *, variant: int = 0) -> Track:
    """Return a track of equal encode batches; they give so many dimensions of each input's last state, 0 for all."""
    lengths = input_lengths(num_tokens)
    output = PoolOutput(pooling=Pooling.LAST, normalize=False, dimensions=num_dimensions)
    rows = EncodeRows(
        num_tokens=lengths,
        token_ids=token_ids(num_tokens, variant),
        token_type_ids=(),
        outputs=(output,) * len(lengths),
    )

    def same(_: int) -> BatchRows:
        return rows

    return Track(name=f"encode {slot}", kind=BatchKind.ENCODE, rows=same, num_tokens=num_tokens)


def _error(outcome: BatchOutcome, reference: torch.Tensor) -> float:
    values: Sequence[Sequence[float]] = [item.values for item in outcome.items]
    return relative_error(torch.tensor(values), reference)


def _ms(one: Steady) -> float:
    return one.batch_ns / 1e6
